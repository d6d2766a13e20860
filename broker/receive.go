package broker

import (
	"context"
	"errors"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/gantry-mq/gantry/broker/group"
	"github.com/gantry-mq/gantry/broker/inflight"
	"github.com/gantry-mq/gantry/broker/lite"
	"github.com/gantry-mq/gantry/broker/longpoll"
	"github.com/gantry-mq/gantry/broker/quota"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/consumequeue"
)

// leaseRef names the lease behind a delivered message, for GiveBack.
type leaseRef struct {
	sub  *inflight.Sub
	held inflight.Held
}

// receiving is one Receive under way. Its memory is used again.
type receiving struct {
	b      *Broker
	req    ReceiveRequest
	topic  topic.Topic
	group  group.Group
	filter matcher
	sub    *inflight.Sub

	attempt   uint64
	lite      bool // takes lite topics, those of bind
	bind      lite.Bind
	found     []found
	room      int              // of bytes, 0 = no bound; the last message may go beyond
	bytes     int              // found
	plan      []inflight.Level // of priorities or lite topics: what to take from where
	leave     func()           // lets the next receive plan; nil = nobody waits for it
	deletions uint64           // Broker.deletions when it began to look

	scans   []inflight.Scanned
	entries [128]consumequeue.Entry
	record  inflight.LeaseRecord
	command command
	handles []byte
	// Methods of this very receiving, which would be allocated at each use.
	boundsOf inflight.Bounds
	submitIt func() error
}

var receivings = sync.Pool{New: func() any {
	r := &receiving{}
	r.boundsOf, r.submitIt = r.bounds, r.submit
	return r
}}

// free gives r's memory back, unless the log may still be reading it.
func (r *receiving) free() {
	if r.command.lost {
		return
	}
	for i := range r.scans {
		clear(r.scans[i].Held)
	}
	for i := range r.record.Queues {
		r.record.Queues[i] = inflight.Scanned{}
	}
	r.b, r.req, r.topic, r.group, r.filter, r.sub = nil, ReceiveRequest{}, topic.Topic{}, group.Group{}, nil, nil
	r.attempt, r.lite, r.bind, r.room, r.plan, r.leave, r.scans = 0, false, lite.Bind{}, 0, nil, nil, r.scans[:0]
	r.record = inflight.LeaseRecord{Queues: r.record.Queues[:0]}
	receivings.Put(r)
}

// found is one message about to be handed out, with its bytes.
type found struct {
	held   inflight.Held
	loaded loaded
}

// Receive hands out messages under a lease. It waits up to req.Wait for a first
// one and then answers with what there is: MessageNotFound when that is nothing,
// never before the wait is over. The leases are records in the log, and applied,
// before the messages leave.
func (b *Broker) Receive(ctx context.Context, req ReceiveRequest) (*Delivery, error) {
	r, err := b.newReceive(ctx, req)
	if err != nil {
		return nil, err
	}
	defer r.free()
	key := longpoll.Key{Topic: r.topic.ID, Group: r.group.ID}
	if r.lite {
		key.Client = r.bind.Client
	}
	wait := b.waitFor(ctx, req.Wait, req.Stop)
	defer wait.end()
	batch := r.req.Batch
	var w *longpoll.Waiter // who finds something at once needs no place in the line of those who wait
	defer func() {
		if w != nil {
			w.Leave()
		}
	}()
	for {
		d, short, err := r.look(ctx, key, batch)
		switch {
		case short != nil:
			if w != nil { // others, who may have quota left, are to be told of messages
				w.Leave()
				w = nil
				b.hub.Wake(key)
			}
			err = wait.hold(short)
		case d != nil || err != nil:
			return d, err
		case w == nil:
			if w, err = b.hub.Register(key); err != nil {
				return nil, Errorf(TooManyRequests, "too many receives of group %q wait for topic %q: %w", r.group.Name, r.topic.Name, err)
			}
		case (req.Wait == 0 || !wait.over()) && r.more():
		default:
			err = wait.sleep(w)
		}
		if err != nil {
			return nil, err
		}
	}
}

// look takes what there is now, of so many messages: nil when that is nothing, or quotas
// hold it back.
func (r *receiving) look(ctx context.Context, key longpoll.Key, batch int) (*Delivery, *quota.Excess, error) {
	grant, short := r.grant(batch, 0)
	if short != nil {
		return nil, short, nil
	}
	d, err := r.collect(ctx)
	if err != nil || d == nil {
		grant.Done(0, 0)
		if err != nil {
			r.b.hub.Wake(key) // what this one was woken for may still be there
		}
		return nil, nil, err
	}
	grant.Done(len(d.Messages), r.bytes)
	if ctx.Err() != nil { // the client went away meanwhile
		r.b.GiveBack(d, 0)
		d.Release()
		return nil, nil, ctx.Err()
	}
	if len(d.Messages) == r.req.Batch || r.more() {
		r.b.hub.Wake(key)
	}
	r.b.counters.deliveries.Add(uint64(len(d.Messages)))
	return d, nil, nil
}

// more reports whether there are messages that nobody has looked at: they came
// while a scan held their queue, and woke a receive that found it held; or the
// scan went to the end of its budget. A group that is paused has to wait for its
// resumption, which wakes it.
func (r *receiving) more() bool {
	if r.b.groups.Paused(r.group.ID) {
		return false
	}
	if r.lite {
		return r.b.liteSubs.Hinted(r.bind)
	}
	if r.topic.Type == topic.Priority && r.sub.Due(r.b.now()) {
		return true // retention had taken what was more urgent
	}
	return r.sub.Unclaimed(r.order(), r.boundsOf, MaxInFlight)
}

func (r *receiving) bounds(queue uint32) (low, high record.QueueOffset) {
	low, high, _ = r.b.index.Bounds(record.Key(r.topic.ID, queue))
	return low, high
}

// patience is the time that a receive or pull has for its first message.
type patience struct {
	b     *Broker
	ctx   context.Context
	until time.Time
	stop  <-chan struct{}
	timer *time.Timer
}

func (b *Broker) waitFor(ctx context.Context, d time.Duration, stop <-chan struct{}) patience {
	return patience{b: b, ctx: ctx, until: time.Now().Add(d), stop: stop}
}

func (w *patience) over() bool { return !time.Now().Before(w.until) }

// ended tells that the time is over.
func (w *patience) ended() <-chan time.Time {
	if w.timer == nil {
		w.timer = time.NewTimer(time.Until(w.until))
	}
	return w.timer.C
}

func (w *patience) end() {
	if w.timer != nil {
		w.timer.Stop()
	}
}

// sleep parks until a wake: nil. The end of the wait or of the broker is
// MessageNotFound, the client's leaving its context's error.
func (w *patience) sleep(at *longpoll.Waiter) error {
	if w.b.ctx.Err() != nil {
		return Errorf(MessageNotFound, "no message: the broker is shutting down")
	}
	err := at.Sleep(w.ctx, w.ended(), w.stop)
	switch {
	case errors.Is(err, longpoll.ErrOver), errors.Is(err, context.DeadlineExceeded):
		return Errorf(MessageNotFound, "no new message")
	case err == nil && w.b.ctx.Err() != nil:
		return Errorf(MessageNotFound, "no message: the broker is shutting down")
	}
	return err
}

func (b *Broker) newReceive(ctx context.Context, req ReceiveRequest) (*receiving, error) {
	tp, err := b.Route(req.Topic)
	if err != nil {
		return nil, err
	}
	if err := checkGroupName(req.Group); err != nil {
		return nil, err
	}
	if !req.AutoRenew {
		if err := checkInvisible(req.Invisible, MinInvisible); err != nil {
			return nil, err
		}
	}
	f, err := b.compiled.get(req.FilterType, req.Filter)
	if err != nil {
		return nil, err
	}
	g, err := b.EnsureGroup(ctx, req.Group)
	if err != nil {
		return nil, err
	}
	req.Batch = min(max(req.Batch, 1), MaxReceiveBatch)
	sub := b.inflight.Sub(inflight.SubKey{Group: g.ID, Topic: tp.ID}, ordered(g, tp))
	if err := b.filters.use(sub.Key(), req.ClientID, req.FilterType, req.Filter, b.sessions.Live); err != nil {
		return nil, err
	}
	r := b.receiving(req, tp, g, f, sub)
	r.findLite()
	if req.AttemptID != "" {
		r.attempt = hash64(req.AttemptID)
	}
	return r, nil
}

// receiving begins a receive that has been checked. It is to be freed.
func (b *Broker) receiving(req ReceiveRequest, tp topic.Topic, g group.Group, f matcher, sub *inflight.Sub) *receiving {
	r := receivings.Get().(*receiving)
	r.b, r.req, r.topic, r.group, r.filter, r.sub = b, req, tp, g, f, sub
	return r
}

// checkInvisible holds a requested invisible time against its limits. The texts
// are part of the contract: wire-contract 10.4.
func checkInvisible(d, low time.Duration) error {
	switch {
	case d < low:
		return Errorf(IllegalInvisibleTime, "the invisibleTime is too small: %v, the limit is %v", d, low)
	case d > MaxInvisible:
		return Errorf(IllegalInvisibleTime, "the invisibleTime is too large: %v, the limit is %v", d, MaxInvisible)
	}
	return nil
}

// hash64 is FNV-1a; 0 means none.
func hash64(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return max(h, 1)
}

// collect takes what there is now: what an earlier try of this receive holds,
// or redeliveries and then new messages, leased in one record. nil: there is
// nothing.
func (r *receiving) collect(ctx context.Context) (*Delivery, error) {
	if err := r.gather(ctx); err != nil || len(r.found) == 0 {
		return nil, err
	}
	return r.deliver(), nil
}

func (r *receiving) gather(ctx context.Context) error {
	r.found, r.bytes = r.found[:0], 0
	if r.b.groups.Paused(r.group.ID) {
		return nil
	}
	r.deletions = r.b.deletions.Load()
	began := r.b.tracer.begin()
	now := r.b.now()
	for _, h := range r.sub.Resume(r.attempt, r.req.ClientID, now) {
		l, err := r.b.load(r.topic, h.Queue, h.Offset)
		if isTrimmed(err) {
			continue
		}
		if err != nil {
			r.release()
			return err
		}
		r.take(h, l)
	}
	if len(r.found) > 0 {
		return nil
	}
	if r.topic.Type == topic.Priority {
		if err := r.planLevels(ctx, now); err != nil {
			return err
		}
		defer r.planned()
	}
	if r.lite {
		r.plan = r.sub.PlanLite(r.hinted(), r.boundsOf, r.req.Batch, now)
		defer r.hintAgain(now)
	}
	redelivered, err := r.takeReady(now)
	if err != nil {
		return err
	}
	if err := r.scan(); err != nil {
		r.sub.EndScan(unscanned(r.scans), nil)
		r.sub.PutBack(redelivered)
		r.release()
		return err
	}
	if err := r.lease(redelivered, now); err != nil {
		r.release()
		return err
	}
	r.b.tracer.delivered(began, r)
	return nil
}

// takeReady reserves redeliveries and loads them.
func (r *receiving) takeReady(now int64) (kept []inflight.Held, err error) {
	if r.topic.Type != topic.Priority && !r.lite {
		return r.loadReady(nil, func() (ready, dead []inflight.Held) {
			return r.sub.TakeReady(nil, r.req.Batch, r.group.MaxAttempts, now)
		})
	}
	for _, l := range r.plan {
		if l.Again == 0 {
			continue
		}
		kept, err = r.loadReady(kept, func() (ready, dead []inflight.Held) {
			if r.lite {
				return r.sub.TakeLite(l.Queue, r.group.MaxAttempts, now)
			}
			return r.sub.TakeLevel(nil, l.Queue, l.Again, r.group.MaxAttempts, now)
		})
		if err != nil {
			return nil, err
		}
	}
	return kept, nil
}

// loadReady adds to kept what take reserves, until it gives something to hand out
// or nothing at all. What has had its attempts goes to the dead letters on the
// way; what the log no longer holds is settled.
func (r *receiving) loadReady(kept []inflight.Held, take func() (ready, dead []inflight.Held)) ([]inflight.Held, error) {
	for before := len(kept); len(kept) == before; {
		ready, dead := take()
		if len(ready)+len(dead) == 0 {
			break
		}
		var gone, unwanted []inflight.Held
		dead, lost, err := r.b.split(r.topic, dead)
		gone = append(gone, lost...)
		if err == nil {
			err = r.b.bury(r.sub, r.topic, r.group, dead, reasonAttempts)
		}
		for i, h := range ready {
			if err == nil && r.noRoom() {
				r.sub.PutBack(ready[i:])
				ready = ready[:i]
				break
			}
			var l loaded
			if err == nil {
				l, err = r.b.load(r.topic, h.Queue, h.Offset)
			}
			switch {
			case isTrimmed(err):
				gone, err = append(gone, h), nil
			case err == nil && h.Attempt == 1 && !r.filter.Match(&l.msg):
				l.release() // replayed, and nothing that this group takes
				unwanted = append(unwanted, h)
			case err == nil:
				kept = append(kept, h)
				r.take(h, l)
			}
		}
		if err == nil && len(gone) > 0 {
			r.b.log.Warn("messages that were waiting for redelivery are gone, by retention or because they were deleted", "topic", r.topic.Name, "group", r.group.Name, "messages", len(gone), "first_offset", gone[0].Offset)
		}
		if gone = append(gone, unwanted...); err == nil && len(gone) > 0 {
			err = r.b.commit(record1(inflight.AppendAck(nil, r.sub.Key(), gone)))
		}
		if err != nil {
			for _, reserved := range [][]inflight.Held{kept[:before], ready, dead, lost} {
				r.sub.PutBack(reserved)
			}
			r.release()
			return nil, err
		}
	}
	return kept, nil
}

// scanBudget bounds how many entries one receive looks at in one queue before
// it lets others have the queue.
const scanBudget = 8192

// scan looks for new messages in the topic's queues until the batch is full. It
// leaves the queues it names in r.scans claimed: EndScan frees them.
func (r *receiving) scan() error {
	r.scans = r.scans[:0]
	for _, l := range r.plan {
		if l.Fresh > 0 {
			if _, err := r.scanNext(one(l.Queue), len(r.found)+l.Fresh); err != nil {
				return err
			}
		}
	}
	if r.lite {
		return nil
	}
	order := r.order()
	for !r.full(r.req.Batch) {
		if ok, err := r.scanNext(order, r.req.Batch); err != nil || !ok {
			return err
		}
	}
	return nil
}

// scanNext scans the first queue in order that has something, until want
// messages are found in all. ok is false when none has.
func (r *receiving) scanNext(order iter.Seq[uint32], want int) (ok bool, err error) {
	sc, end, ok := r.sub.BeginScan(order, r.boundsOf, MaxInFlight)
	if !ok {
		return false, nil
	}
	if n := len(r.scans); n < cap(r.scans) { // the memory of an earlier scan
		sc.Held = r.scans[:n+1][n].Held[:0]
	}
	err = r.scanQueue(&sc, end, want)
	r.scans = append(r.scans, sc)
	return true, err
}

// order says in which order queues are scanned: from the highest on a topic with
// priorities, else from the client's hint or from one further than the last time.
func (r *receiving) order() iter.Seq[uint32] {
	n := r.topic.Queues
	if r.topic.Type == topic.Priority {
		return func(yield func(uint32) bool) {
			for q := n; q > 0 && yield(q-1); q-- {
			}
		}
	}
	begin := r.sub.Turn(n)
	if r.req.Queue >= 0 {
		begin = uint32(r.req.Queue)
	}
	return func(yield func(uint32) bool) {
		for i := uint32(0); i < n && yield((begin+i)%n); i++ {
		}
	}
}

// scanQueue reads entries from sc.From on, keeps what matches until want messages
// are found in all, and sets sc.To.
func (r *receiving) scanQueue(sc *inflight.Scanned, to record.QueueOffset, want int) error {
	entries := r.entries[:]
	var met map[uint32]bool // FIFO: message groups of this scan
	key := record.Key(r.topic.ID, sc.Queue)
	for sc.To < to && sc.To < sc.From+scanBudget && !r.full(want) {
		n, err := r.b.index.Read(key, sc.To, entries[:min(int64(len(entries)), int64(to-sc.To))])
		if err != nil {
			return r.b.indexError(r.topic, sc.Queue, sc.To, err)
		}
		if n == 0 {
			return nil
		}
		for _, e := range entries[:n] {
			if r.full(want) {
				return nil
			}
			if !r.filter.MatchHash(e.TagHash) {
				sc.To++
				continue
			}
			// Where it is to stay: whatever filters get a pointer to is on the heap.
			r.found = append(r.found, found{})
			f := &r.found[len(r.found)-1]
			f.loaded, err = r.b.loadEntry(e, sc.Queue, sc.To)
			if err != nil || !r.filter.Match(&f.loaded.msg) {
				r.unfind()
				if err != nil && !isTrimmed(err) {
					return err
				}
				sc.To++
				continue
			}
			h := inflight.Held{Queue: sc.Queue, Offset: sc.To, Attempt: 1, GroupHash: e.GroupHash}
			if r.sub.FIFO() {
				h.Deferred = r.sub.Admit(sc.Queue, e.GroupHash, met[e.GroupHash])
				if met == nil {
					met = map[uint32]bool{}
				}
				met[e.GroupHash] = true
			}
			sc.Held = append(sc.Held, h)
			sc.To++
			if h.Deferred {
				r.unfind()
				continue
			}
			f.held = h
			r.bytes += len(f.loaded.view.Bytes())
		}
	}
	return nil
}

func (r *receiving) take(h inflight.Held, l loaded) {
	r.found = append(r.found, found{held: h, loaded: l})
	r.bytes += len(l.view.Bytes())
}

// unfind gives back what was found last.
func (r *receiving) unfind() {
	last := len(r.found) - 1
	r.found[last].loaded.release()
	r.found[last] = found{}
	r.found = r.found[:last]
}

// full reports whether so many messages are found as are wanted, or as there is
// room for.
func (r *receiving) full(want int) bool { return len(r.found) >= want || r.noRoom() }

func (r *receiving) noRoom() bool { return r.room > 0 && r.bytes >= r.room }

// unscanned is scans that found nothing and looked at nothing.
func unscanned(scans []inflight.Scanned) []inflight.Scanned {
	for i := range scans {
		scans[i].To = scans[i].From
		scans[i].Held = scans[i].Held[:0]
	}
	return scans
}

// lease records what was found and waits until that is applied.
func (r *receiving) lease(redelivered []inflight.Held, now int64) error {
	must := len(redelivered) > 0
	for _, sc := range r.scans {
		must = must || len(sc.Held) > 0 || r.sub.MustRecord(sc)
	}
	if !must {
		return r.sub.EndScan(r.scans, nil)
	}
	rec := &r.record
	*rec = inflight.LeaseRecord{
		Key: r.sub.Key(), Deadline: now + r.req.Invisible.Milliseconds(),
		AttemptID: r.attempt, Owner: r.req.ClientID, Queues: rec.Queues[:0],
	}
	if r.req.AutoRenew {
		// Without a registered client there is nobody whose life could hold the lease.
		rec.Auto = r.b.sessions.Live(r.req.ClientID)
		rec.Deadline = now + defaultInvisible.Milliseconds()
		if rec.Auto {
			rec.Deadline = now + MaxHold.Milliseconds()
		}
	}
	for rest := redelivered; len(rest) > 0; {
		n := 1
		for n < len(rest) && rest[n].Queue == rest[0].Queue {
			n++
		}
		rec.Queues = append(rec.Queues, inflight.Scanned{Queue: rest[0].Queue, Epoch: rest[0].Epoch, Held: rest[:n]})
		rest = rest[n:]
	}
	rec.Queues = append(rec.Queues, r.scans...)
	rec.FirstID = r.b.inflight.LeaseIDs(len(r.found), now)
	for i := range r.found { // in the record's order: ids are given in it
		r.found[i].held.LeaseID = rec.FirstID + uint64(i)
		r.found[i].held.Deadline = rec.Deadline
	}
	r.command.set(inflight.AppendLease(r.command.room(), rec))
	if err := r.sub.EndScan(r.scans, r.submitIt); err != nil {
		r.sub.PutBack(redelivered)
		return wrapAppend(err)
	}
	r.planned()
	if err := r.command.await(r.b); err != nil {
		return err
	}
	r.found = slices.DeleteFunc(r.found, func(f found) bool {
		held := r.sub.Holds(f.held)
		if !held {
			f.loaded.release()
		}
		return !held
	})
	if r.b.deletions.Load() != r.deletions {
		return r.dropDeleted()
	}
	return nil
}

// dropDeleted settles what was deleted since it was found: its lease may have come
// after the deletion in the log.
func (r *receiving) dropDeleted() error {
	var gone []inflight.Held
	var err error
	r.found = slices.DeleteFunc(r.found, func(f found) bool {
		var deleted bool
		if err == nil {
			deleted, err = r.b.isDeleted(entryRef{record.Key(r.topic.ID, f.held.Queue), f.held.Offset})
		}
		if deleted {
			gone = append(gone, f.held)
			f.loaded.release()
		}
		return deleted
	})
	if err != nil || len(gone) == 0 {
		return err
	}
	return r.b.commit(record1(inflight.AppendAck(nil, r.sub.Key(), gone)))
}

func (r *receiving) submit() error { return r.b.append.Submit(&r.command.batch) }

// defaultInvisible is the lease of a push consumer that is not connected by a
// command stream (wire-contract 2.5).
const defaultInvisible = 60 * time.Second

func (r *receiving) release() {
	for _, f := range r.found {
		f.loaded.release()
	}
	clear(r.found)
	r.found = r.found[:0]
}

// deliver makes the answer. The views go over to it.
func (r *receiving) deliver() *Delivery {
	if r.topic.Type == topic.Priority {
		sortLevels(r.found)
	}
	key := r.b.handles.Load()
	r.handles = r.handles[:0]
	for i := range r.found {
		h := &r.found[i].held
		r.handles = key.appendHandle(r.handles, handle{Key: r.sub.Key(), Queue: h.Queue, Offset: h.Offset, LeaseID: h.LeaseID, Deadline: h.Deadline})
	}
	handles := string(r.handles) // all in one allocation
	d := newDelivery(len(r.found))
	for i := range r.found {
		h := &r.found[i].held
		m := &d.Messages[i]
		*m = r.found[i].loaded.delivered(r.topic.Name, h.Queue, h.Offset)
		m.Attempt = h.Attempt
		m.Handle = handles[i*handleText : (i+1)*handleText]
		m.leaseRef = leaseRef{sub: r.sub, held: *h}
	}
	clear(r.found)
	r.found = r.found[:0]
	return d
}

// GiveBack makes the messages of d from index from on visible again after
// ReleaseDelay: their client is gone. It does not wait.
func (b *Broker) GiveBack(d *Delivery, from int) {
	bySub := map[*inflight.Sub][]inflight.Held{}
	for _, m := range d.Messages[from:] {
		ref := m.leaseRef
		if ref.sub == nil {
			continue
		}
		if h, err := ref.sub.BeginMove(ref.held.Queue, ref.held.Offset, ref.held.LeaseID, b.now()); err == nil {
			bySub[ref.sub] = append(bySub[ref.sub], h)
		}
	}
	for sub, held := range bySub {
		b.releaseHeld(sub, held, ReleaseDelay)
	}
}

// releaseHeld submits the record that ends reserved leases after delay. The
// handles stay good until then.
func (b *Broker) releaseHeld(sub *inflight.Sub, held []inflight.Held, delay time.Duration) {
	if len(held) == 0 {
		return
	}
	deadline := b.now() + delay.Milliseconds()
	if err := b.append.Submit(record1(inflight.AppendExtend(nil, sub.Key(), deadline, 0, false, held))); err != nil {
		// They come again when their leases end by themselves.
		sub.PutBack(held)
		b.log.Warn("leases of a client that is gone were not released", "error", err)
	}
}
