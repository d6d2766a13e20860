package access

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// Table is all users and policies. Use NewTable.
type Table struct {
	key *MasterKey // nil: secrets stay sealed, so nobody is authenticated

	mu       sync.Mutex
	users    map[string]User
	policies map[uint64]Policy
	next     uint64

	now atomic.Pointer[view] // nil after a change, until somebody looks
	old map[string]*Principal
}

// view is the table as calls see it: it does not change.
type view struct {
	principals map[string]*Principal
	over       chan struct{} // closed when there is another
}

// NewTable returns an empty table. key may be nil.
func NewTable(key *MasterKey) *Table {
	t := &Table{key: key, users: map[string]User{}, policies: map[uint64]Policy{}, next: 1}
	t.now.Store(&view{over: make(chan struct{})})
	return t
}

// Key is what seals secrets, nil if there is none.
func (t *Table) Key() *MasterKey { return t.key }

// Apply applies the data of a record of one of the four kinds.
func (t *Table) Apply(kind record.Kind, data []byte) error {
	d := record.NewDecoder(data)
	t.mu.Lock()
	defer t.mu.Unlock()
	switch kind {
	case record.KindUserPut:
		if u := readUser(d); d.Err() == nil {
			t.users[u.Name] = u
			t.changed(u.Name)
		}
	case record.KindUserDelete:
		if name := d.String(); d.Err() == nil {
			delete(t.users, name)
			maps.DeleteFunc(t.policies, func(_ uint64, p Policy) bool { return p.User == name })
			t.changed(name)
		}
	case record.KindPolicyPut:
		if p := readPolicy(d); d.Err() == nil {
			if _, ok := t.users[p.User]; ok { // deleted while it was being granted
				t.policies[p.ID] = p
			}
			t.next = max(t.next, p.ID+1)
			t.changed(p.User)
		}
	case record.KindPolicyDelete:
		if id := d.Uvarint(); d.Err() == nil {
			user := t.policies[id].User
			delete(t.policies, id)
			t.changed(user)
		}
	default:
		return fmt.Errorf("access: a record of kind %v", kind)
	}
	return d.Err()
}

// changed has the next look see another view, in which the user is another.
func (t *Table) changed(user string) {
	delete(t.old, user)
	if v := t.now.Swap(nil); v != nil {
		close(v.over)
	}
}

// view returns the table as it is.
func (t *Table) view() *view {
	if v := t.now.Load(); v != nil {
		return v
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if v := t.now.Load(); v != nil {
		return v
	}
	v := &view{principals: make(map[string]*Principal, len(t.users)), over: make(chan struct{})}
	of := map[string][]Policy{}
	for _, p := range t.policies {
		of[p.User] = append(of[p.User], p)
	}
	for name, u := range t.users {
		p := t.old[name]
		if p == nil {
			p = newPrincipal(t.key, u, of[name])
		}
		v.principals[name] = p
	}
	t.old = maps.Clone(v.principals)
	t.now.Store(v)
	return v
}

// Lookup returns who has the name, nil if nobody does.
func (t *Table) Lookup(name string) *Principal { return t.view().principals[name] }

// Changed is closed when something has changed since the call.
func (t *Table) Changed() <-chan struct{} { return t.view().over }

// User returns a user.
func (t *Table) User(name string) (User, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	u, ok := t.users[name]
	return u, ok
}

// Users returns all, by name.
func (t *Table) Users() []User {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.SortedFunc(maps.Values(t.users), func(a, b User) int { return cmp.Compare(a.Name, b.Name) })
}

// Policies returns a user's, or all if user is "", by id.
func (t *Table) Policies(user string) []Policy {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []Policy
	for _, p := range t.policies {
		if user == "" || p.User == user {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b Policy) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// Policy returns a policy.
func (t *Table) Policy(id uint64) (Policy, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p, ok := t.policies[id]
	return p, ok
}

// NextID is the id that the next policy gets. Whoever uses it must not let another be
// appended in between.
func (t *Table) NextID() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.next
}

// CheckKey says which user's secret the master key does not open.
func (t *Table) CheckKey() error {
	for _, u := range t.Users() {
		if t.key == nil {
			return fmt.Errorf("access: there is no master key, and user %q has a secret", u.Name)
		}
		if _, err := t.key.Open(u.Name, u.Sealed); err != nil {
			return fmt.Errorf("the secret of user %q: %w", u.Name, err)
		}
	}
	return nil
}

// AppendSnapshot appends the table. Equal tables give equal bytes.
func (t *Table) AppendSnapshot(dst []byte) []byte {
	users, policies := t.Users(), t.Policies("")
	dst = binary.AppendUvarint(dst, t.NextID())
	dst = binary.AppendUvarint(dst, uint64(len(users)))
	for i := range users {
		dst = appendUser(dst, &users[i])
	}
	dst = binary.AppendUvarint(dst, uint64(len(policies)))
	for i := range policies {
		dst = appendPolicy(dst, &policies[i])
	}
	return dst
}

// Restore fills an empty table with what AppendSnapshot wrote. The caller checks d.
func (t *Table) Restore(d *record.Decoder) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.next = d.Uvarint()
	for n := d.Count(minUserLen); n > 0 && !d.Failed(); n-- {
		u := readUser(d)
		t.users[u.Name] = u
	}
	for n := d.Count(minPolicyLen); n > 0 && !d.Failed(); n-- {
		p := readPolicy(d)
		t.policies[p.ID] = p
	}
	t.changed("")
}
