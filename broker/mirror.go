package broker

import (
	"context"
	"reflect"
	"slices"
	"sync"

	"github.com/gantry-mq/gantry/broker/access"
	"github.com/gantry-mq/gantry/broker/group"
	"github.com/gantry-mq/gantry/broker/quota"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/commitlog/record"
)

// A broker may be one of several shards of a cluster. Then its topics, groups, users,
// policies and quotas are those of another broker: Mirror makes them so, by records in
// its own log, and whoever asks is answered from its own tables, also while the other
// one is not there.
//
// A topic or group is the same in both when it has the same name and the same time of
// creation: one that was deleted and made again goes, with its messages, and comes anew.
// IDs are each log's own.

// Tables are what the shards of a cluster have in common.
type Tables struct {
	Topics   []topic.Topic
	Groups   []group.Group
	Users    []access.User
	Policies []access.Policy
	Quotas   []quota.Quota
}

// Tables returns those of the broker, which may follow, or be closed.
func (b *Broker) Tables() Tables {
	t := Tables{Groups: b.groups.List(), Users: b.access.Users(), Policies: b.access.Policies(""), Quotas: b.quotas.List()}
	for _, tp := range b.topics.List() {
		if InAllShards(tp) {
			t.Topics = append(t.Topics, tp)
		}
	}
	return t
}

// InAllShards reports whether a topic of one shard is in all. Dead letters are those of one shard,
// with its first one their topic comes into being; and lite topics are in order, which
// is that of one log.
func InAllShards(tp topic.Topic) bool { return !isDLQ(tp) && tp.Type != topic.Lite }

// mirrorBatch is how many records a Mirror appends at once.
const mirrorBatch = 512

// Mirror makes the tables of a broker that leads equal to those of another one, as of
// now, and returns how many records that took. Tables from before the last ones would
// undo what came between, and with a topic its messages: the caller knows that there
// are none older.
func (b *Broker) Mirror(ctx context.Context, of Tables) (changes int, err error) {
	select {
	case b.tableOp <- struct{}{}:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	defer func() { <-b.tableOp }()
	all := b.unlike(of)
	for changes < len(all) {
		batch := &commitlog.Batch{}
		n := min(mirrorBatch, len(all)-changes)
		for _, cmd := range all[changes : changes+n] {
			batch.Add(cmd, nil)
		}
		if err := b.commit(batch); err != nil {
			return changes, err
		}
		changes += n
	}
	return changes, nil
}

// Mirrors reports whether the tables are equal to those of another broker.
func (b *Broker) Mirrors(of Tables) bool { return len(b.unlike(of)) == 0 }

// unlike returns the records that make the tables as others are.
func (b *Broker) unlike(of Tables) [][]byte {
	cmds := b.unlikeTopics(of.Topics)
	cmds = append(cmds, b.unlikeGroups(of.Groups)...)
	cmds = append(cmds, unlike(b.access.Users(), of.Users, func(u access.User) string { return u.Name },
		func(u access.User) []byte { return access.AppendUserPut(nil, u) },
		func(u access.User) []byte { return access.AppendUserDelete(nil, u.Name) })...)
	// A user takes the policies along; they come last, because they need theirs.
	cmds = append(cmds, unlike(b.access.Policies(""), of.Policies, func(p access.Policy) uint64 { return p.ID },
		func(p access.Policy) []byte { return access.AppendPolicyPut(nil, p) },
		func(p access.Policy) []byte { return access.AppendPolicyDelete(nil, p.ID) })...)
	return append(cmds, unlike(b.quotas.List(), of.Quotas, func(q quota.Quota) quota.Subject { return q.Subject },
		func(q quota.Quota) []byte { return quota.AppendPut(nil, q) },
		func(q quota.Quota) []byte { return quota.AppendDelete(nil, q.Subject) })...)
}

// unlike returns the records that make rows of own, each known by its key.
func unlike[R any, K comparable](own, rows []R, key func(R) K, put, remove func(R) []byte) (cmds [][]byte) {
	want := make(map[K]R, len(rows))
	for _, r := range rows {
		want[key(r)] = r
	}
	have := make(map[K]R, len(own))
	for _, r := range own {
		have[key(r)] = r
		if _, ok := want[key(r)]; !ok {
			cmds = append(cmds, remove(r))
		}
	}
	for _, r := range rows {
		if old, ok := have[key(r)]; !ok || !reflect.DeepEqual(old, r) {
			cmds = append(cmds, put(r))
		}
	}
	return cmds
}

// made is what makes a topic or group of a name another one than that before.
type made struct {
	name record.Resource
	at   int64
}

func (b *Broker) unlikeTopics(rows []topic.Topic) [][]byte {
	id := func(tp topic.Topic) made { return made{tp.Name, tp.Created} }
	own := b.Tables().Topics
	return unlike(own, withIDs(own, rows, id, func(tp *topic.Topic) *record.TopicID { return &tp.ID }, b.topics.NextID()), id,
		func(tp topic.Topic) []byte { return topic.AppendPut(nil, tp) },
		func(tp topic.Topic) []byte { return topic.AppendDelete(nil, tp.ID) })
}

func (b *Broker) unlikeGroups(rows []group.Group) [][]byte {
	id := func(g group.Group) made { return made{g.Name, g.Created} }
	own := b.groups.List()
	return unlike(own, withIDs(own, rows, id, func(g *group.Group) *record.GroupID { return &g.ID }, b.groups.NextID()), id,
		func(g group.Group) []byte { return group.AppendPut(nil, g) },
		func(g group.Group) []byte { return group.AppendDelete(nil, g.ID) })
}

// withIDs returns rows with the IDs that own ones have, and with next and on where there
// is none.
func withIDs[R any, ID ~uint32](own, rows []R, id func(R) made, number func(*R) *ID, next ID) []R {
	ids := map[made]ID{}
	for i := range own {
		ids[id(own[i])] = *number(&own[i])
	}
	rows = slices.Clone(rows)
	for i := range rows {
		n := number(&rows[i])
		if *n = ids[id(rows[i])]; *n == 0 {
			*n = next
			next++
		}
	}
	return rows
}

// groupElsewhere has a group made where the tables are, and waits until it is here.
func (b *Broker) groupElsewhere(ctx context.Context, name record.Resource) (group.Group, error) {
	if err := b.opts.NewGroup(ctx, name); err != nil {
		return group.Group{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, MirrorWait)
	defer cancel()
	for {
		changed := b.TablesChanged()
		if g, ok := b.groups.Lookup(name); ok {
			return g, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return group.Group{}, Errorf(Unavailable, "the group %q was made in shard 0 and is not known to this shard yet", clip(name.String()))
		case <-b.ctx.Done():
			return group.Group{}, Errorf(Unavailable, "the broker is shutting down")
		}
	}
}

// tableChanges tells of records that change what Tables returns.
type tableChanges struct {
	mu   sync.Mutex
	next chan struct{} // nil: nobody waits
}

// tell is the dispatcher's, after such a record is applied.
func (c *tableChanges) tell() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.next != nil {
		close(c.next)
		c.next = nil
	}
}

// TablesChanged returns a channel that is closed when something of Tables has changed
// since the call. A broker that is closed changes no more.
func (b *Broker) TablesChanged() <-chan struct{} {
	c := &b.changes
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.next == nil {
		c.next = make(chan struct{})
	}
	return c.next
}

// Applied waits until all that is before a position of the log is applied.
func (b *Broker) Applied(ctx context.Context, at record.Position) error {
	return b.dispatcher.Await(ctx, at)
}

// Committed is where what is committed of the log ends, as far as this broker knows.
func (b *Broker) Committed() record.Position { return b.wal.Committed() }

// MadeRecall reports whether a recall handle is one of this broker's, or of another
// replica of it.
func (b *Broker) MadeRecall(handle string) bool {
	k := b.handles.Load()
	if k == nil {
		return false
	}
	_, ok := k.openRecall(handle)
	return ok
}
