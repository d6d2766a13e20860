package session

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// Registry is the set of live clients.
//
// A client is live from its first Register until it says goodbye (Terminate)
// or has not been heard of for the expiry. Losing its command stream does not
// end it: SDKs reopen a broken stream within seconds.
//
// # Concurrency
//
// All methods may be called concurrently. The gone callback runs on the
// goroutine of Run or Terminate without a lock held, so it may call back.
type Registry struct {
	expiry time.Duration
	gone   func(Client)

	mu      sync.Mutex
	clients map[string]*Client   // guarded by mu
	streams map[string][]*stream // guarded by mu; open streams per client id, the newest last
}

// New makes an empty registry. A client that is silent for expiry is gone; gone
// is told once per life of a client and may be nil.
func New(expiry time.Duration, gone func(Client)) *Registry {
	if gone == nil {
		gone = func(Client) {}
	}
	return &Registry{
		expiry:  expiry,
		gone:    gone,
		clients: make(map[string]*Client),
		streams: make(map[string][]*stream),
	}
}

// Register makes c live, or replaces what was known of it: clients send their
// whole description each time.
func (r *Registry) Register(c Client) {
	c.Publishing = slices.Clone(c.Publishing)
	c.Subscriptions = slices.Clone(c.Subscriptions)
	c.LastSeen = time.Now()
	c.Connected, c.Refused = c.LastSeen, Refusal{}
	r.mu.Lock()
	defer r.mu.Unlock()
	if before := r.clients[c.ID]; before != nil {
		c.Connected, c.Refused = before.Connected, before.Refused
	}
	r.clients[c.ID] = &c
}

// Refused notes what a client was last refused, for operators to see. Its time is
// now. A client that is not live is ignored.
func (r *Registry) Refused(id string, f Refusal) {
	f.Time = time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.clients[id]; c != nil {
		c.Refused = f
	}
}

// Touch keeps a client live. It reports false for one that is not: it must
// Register again.
func (r *Registry) Touch(id string) bool {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.clients[id]
	if c == nil {
		return false
	}
	c.LastSeen = now
	return true
}

// Terminate ends a client that said goodbye: gone is called before it returns.
// An unknown id is ignored.
func (r *Registry) Terminate(id string) {
	r.mu.Lock()
	c, known := r.clients[id]
	var last Client
	if known {
		last = r.snapshot(c)
		delete(r.clients, id)
	}
	r.mu.Unlock()
	if known {
		r.gone(last)
	}
}

// Get returns the client named id.
func (r *Registry) Get(id string) (Client, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, ok := r.clients[id]
	if !ok {
		return Client{}, false
	}
	return r.snapshot(c), true
}

// Live reports whether the client is known and not gone.
func (r *Registry) Live(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.clients[id] != nil
}

// List returns all live clients, ordered by id.
func (r *Registry) List() []Client {
	return r.where(func(*Client) bool { return true })
}

// ByGroup returns the live consumers of a group, ordered by id.
func (r *Registry) ByGroup(group record.Resource) []Client {
	return r.where(func(c *Client) bool { return c.Role != Producer && c.Group == group })
}

// Producers returns the live producers of a topic, ordered by id.
func (r *Registry) Producers(topic record.Resource) []Client {
	return r.where(func(c *Client) bool { return c.Role == Producer && slices.Contains(c.Publishing, topic) })
}

func (r *Registry) where(want func(*Client) bool) []Client {
	r.mu.Lock()
	var found []Client
	for _, c := range r.clients {
		if want(c) {
			found = append(found, r.snapshot(c))
		}
	}
	r.mu.Unlock()
	slices.SortFunc(found, func(a, b Client) int { return cmp.Compare(a.ID, b.ID) })
	return found
}

// snapshot copies c. Its slices are shared: Register replaces a Client whole
// and nobody writes to them. Called with mu held.
func (r *Registry) snapshot(c *Client) Client {
	s := *c
	s.Streaming = len(r.streams[c.ID]) > 0
	return s
}
