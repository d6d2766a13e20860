package check

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// Rule is a promise.
type Rule string

const (
	Lost        Rule = "lost"        // an acknowledged message reaches every group that wants it, as often as it was acknowledged
	Body        Rule = "body"        // what arrives is what was sent: body, tag, message group, topic
	Invented    Rule = "invented"    // nothing arrives that was not sent before, nor in more places than it was sent
	Place       Rule = "place"       // a queue offset holds one message, the same for everybody, the one that was told
	Unwanted    Rule = "unwanted"    // a group gets what its filter lets pass
	Redelivered Rule = "redelivered" // nothing comes again after its acknowledgement succeeded
	Attempts    Rule = "attempts"    // the delivery attempt of a message in a group grows with each delivery
	Order       Rule = "order"       // an ordered group gets a message after all before it in its message group are settled
	Early       Rule = "early"       // nothing is delivered before it is due
	Decided     Rule = "decided"     // a half message arrives if it was committed, and only then; it is decided once
	Twice       Rule = "twice"       // where messages are stored once, a repeated send gets the first result and adds no place
	Redriven    Rule = "redriven"    // a dead letter goes back into its topic, to one place
	Stored      Rule = "stored"      // messages of one message group that were sent one after the other are stored so
)

// Violation is one promise broken.
type Violation struct {
	Rule Rule
	Text string
}

func (v Violation) String() string { return fmt.Sprintf("%s: %s", v.Rule, v.Text) }

// Report is the verdict on a history that ended with all groups drained.
type Report struct {
	Acknowledged int // sends with a known good outcome
	Unknown      int // sends without a known outcome
	Appeared     int // places found to hold a message
	Deliveries   int
	Redelivered  int // deliveries beyond the first of a place in a group
	Acks         int // acknowledgements that succeeded
	Late         int // of them, those that found the message done by a later attempt
	Delayed      int // messages that arrived after a delay
	Committed    int // half messages that arrived
	RolledBack   int // known to be
	Repeats      int // sends beyond the first acknowledged one that got its result
	Dead         int // known to have become dead letters
	Lost         int
	Violations   []Violation
}

func (r *Report) String() string {
	return fmt.Sprintf("acknowledged=%d unknown=%d stored=%d deliveries=%d redeliveries=%d acks=%d late=%d delayed=%d committed=%d rolled-back=%d sent-again=%d dead=%d lost=%d violations=%d",
		r.Acknowledged, r.Unknown, r.Appeared, r.Deliveries, r.Redelivered, r.Acks, r.Late, r.Delayed, r.Committed, r.RolledBack, r.Repeats, r.Dead, r.Lost, len(r.Violations))
}

// Add counts what another history had on top.
func (r *Report) Add(o *Report) {
	r.Acknowledged += o.Acknowledged
	r.Unknown += o.Unknown
	r.Appeared += o.Appeared
	r.Deliveries += o.Deliveries
	r.Redelivered += o.Redelivered
	r.Acks += o.Acks
	r.Late += o.Late
	r.Delayed += o.Delayed
	r.Committed += o.Committed
	r.RolledBack += o.RolledBack
	r.Repeats += o.Repeats
	r.Dead += o.Dead
	r.Lost += o.Lost
	r.Violations = append(r.Violations, o.Violations...)
}

// checker holds the indexes over a history.
type checker struct {
	*History
	report  Report
	sent    map[string][]*Send         // by ID
	holds   map[Slot]*Delivery         // any delivery of a place
	groups  map[string]*Consumers      // by name
	visits  map[string]map[Slot]*visit // by consumer group
	appears map[string][]Slot          // by ID, the places that hold it
	endings map[string][]*Ending       // by ID
	dead    map[string]map[Slot]bool   // by ID, the places that became dead letters; true = surely
}

// visit is what one consumer group had to do with one place.
type visit struct {
	slot       Slot
	group      string // message group
	deliveries []*Delivery
	acks       []*Ack
}

// Check judges h, whose groups have all been drained.
func Check(h *History) *Report {
	c := &checker{
		History: h, sent: map[string][]*Send{}, holds: map[Slot]*Delivery{}, groups: map[string]*Consumers{},
		visits: map[string]map[Slot]*visit{}, appears: map[string][]Slot{},
		endings: map[string][]*Ending{}, dead: map[string]map[Slot]bool{},
	}
	for i := range h.Groups {
		c.groups[h.Groups[i].Name] = &h.Groups[i]
		c.visits[h.Groups[i].Name] = map[Slot]*visit{}
	}
	c.index()
	c.contents()
	c.losses()
	c.decided()
	c.once()
	c.stored()
	for _, g := range h.Groups {
		for _, v := range c.visits[g.Name] {
			c.attempts(g, v)
			c.settled(g, v)
		}
		if g.FIFO {
			c.order(g)
		}
	}
	slices.SortStableFunc(c.report.Violations, func(a, b Violation) int { return cmp.Compare(a.Rule, b.Rule) })
	return &c.report
}

func (c *checker) broken(r Rule, format string, args ...any) {
	c.report.Violations = append(c.report.Violations, Violation{r, fmt.Sprintf(format, args...)})
}

func (c *checker) index() {
	for i := range c.Sends {
		s := &c.Sends[i]
		c.sent[s.ID] = append(c.sent[s.ID], s)
		if s.OK {
			c.report.Acknowledged++
		} else {
			c.report.Unknown++
		}
	}
	for i := range c.Deliveries {
		d := &c.Deliveries[i]
		v := c.visit(d.Consumers, d.Slot)
		v.group = d.Group
		v.deliveries = append(v.deliveries, d)
		if c.holds[d.Slot] == nil {
			c.holds[d.Slot] = d
			c.appears[d.ID] = append(c.appears[d.ID], d.Slot)
		}
	}
	for i := range c.Acks {
		a := &c.Acks[i]
		v := c.visit(a.Consumers, a.Slot)
		v.acks = append(v.acks, a)
		if a.Dead {
			if c.dead[a.ID] == nil {
				c.dead[a.ID] = map[Slot]bool{}
			}
			c.dead[a.ID][a.Slot] = c.dead[a.ID][a.Slot] || a.OK
		} else if a.OK {
			c.report.Acks++
		}
	}
	for i := range c.Endings {
		e := &c.Endings[i]
		c.endings[e.ID] = append(c.endings[e.ID], e)
	}
	c.report.Deliveries = len(c.Deliveries)
	c.report.Appeared = len(c.holds)
	for _, group := range c.visits {
		for _, v := range group {
			c.report.Redelivered += max(0, len(v.deliveries)-1)
		}
	}
}

func (c *checker) visit(consumers string, at Slot) *visit {
	v := c.visits[consumers][at]
	if v == nil {
		v = &visit{slot: at}
		c.visits[consumers][at] = v
	}
	return v
}

// contents checks what arrived against what was sent.
func (c *checker) contents() {
	for i := range c.Deliveries {
		d := &c.Deliveries[i]
		if first := c.holds[d.Slot]; first.ID != d.ID {
			c.broken(Place, "%v held %q for %s and %q for %s", d.Slot, first.ID, first.Consumers, d.ID, d.Consumers)
		}
		sends := c.sent[d.ID]
		if !slices.ContainsFunc(sends, func(s *Send) bool { return s.Begin < d.End }) {
			c.broken(Invented, "%q arrived at %s from %v and was not sent before", d.ID, d.Consumers, d.Slot)
			continue
		}
		if s := sends[0]; s.Body != d.Body || s.Tag != d.Tag || s.Group != d.Group || s.Topic != d.Topic {
			c.broken(Body, "%q arrived at %s from %v as %+v, sent as %+v", d.ID, d.Consumers, d.Slot, *d, *s)
		}
		if due := sends[0].Due; d.End < due {
			c.broken(Early, "%q arrived at %s from %v %d ns before it was due", d.ID, d.Consumers, d.Slot, due-d.End)
		}
		if g := c.groups[d.Consumers]; !g.wants(d.Topic, d.Tag) {
			c.broken(Unwanted, "%q with tag %q from %v arrived at %s", d.ID, d.Tag, d.Slot, d.Consumers)
		}
	}
	for id, slots := range c.appears {
		n := len(c.sent[id])
		if n > 0 && c.sent[id][0].Once {
			continue
		}
		if n > 0 && len(slots) > n {
			c.broken(Invented, "%q was sent %d times and is in %d places: %v", id, n, len(slots), slots)
		}
	}
}

// decided checks half messages.
func (c *checker) decided() {
	for id, sends := range c.sent {
		if !sends[0].Half {
			continue
		}
		var committed, rolledBack bool
		begun := int64(math.MaxInt64) // of the first commit
		for _, e := range c.endings[id] {
			committed = committed || e.OK && e.Commit
			rolledBack = rolledBack || e.OK && !e.Commit
			if e.Commit {
				begun = min(begun, e.Begin)
			}
		}
		if committed && rolledBack {
			c.broken(Decided, "%q was committed and rolled back", id)
		}
		slots := c.appears[id]
		if len(slots) > 0 {
			c.report.Committed++
		}
		if rolledBack {
			c.report.RolledBack++
			if len(slots) > 0 {
				c.broken(Decided, "%q was rolled back and arrived from %v", id, slots)
			}
		}
		for _, slot := range slots {
			if d := c.holds[slot]; d.End < begun {
				c.broken(Decided, "%q arrived at %s from %v before anybody committed it", id, d.Consumers, slot)
			}
		}
	}
}

// once checks messages that are stored once.
func (c *checker) once() {
	for id, sends := range c.sent {
		if sends[0].Due > 0 && len(c.appears[id]) > 0 {
			c.report.Delayed++
		}
		if !sends[0].Once {
			continue
		}
		var first *Send
		for _, s := range sends {
			switch {
			case !s.OK:
			case first == nil:
				first = s
			case s.Result != first.Result:
				c.broken(Twice, "%q was answered with %q and with %q", id, first.Result, s.Result)
			default:
				c.report.Repeats++
			}
		}
		most, least := 1+len(c.dead[id]), 1
		for _, surely := range c.dead[id] {
			if surely {
				least++
				c.report.Dead++
			}
		}
		switch places := c.appears[id]; {
		case len(c.dead[id]) == 0 && len(places) > 1:
			c.broken(Twice, "%q is in %d places: %v", id, len(places), places)
		case len(places) > most, len(c.dead[id]) > 0 && len(places) < least:
			c.broken(Redriven, "%q became a dead letter %d times, of which %d are sure, and was in %d places: %v", id, most-1, least-1, len(places), places)
		}
	}
}

// wanted returns how many places of a message its senders were promised.
func (c *checker) wanted(sends []*Send, acknowledged int) int {
	first := sends[0]
	if first.Half && !slices.ContainsFunc(c.endings[first.ID], func(e *Ending) bool { return e.OK && e.Commit }) {
		return 0
	}
	if first.Once {
		return min(acknowledged, 1)
	}
	return acknowledged
}

func (g *Consumers) wants(topic, tag string) bool {
	return g.Topic == topic && (len(g.Tags) == 0 || slices.Contains(g.Tags, tag))
}

// losses checks that every group saw each acknowledged message, as often as it
// was acknowledged, and everything that any other group saw.
func (c *checker) losses() {
	for _, g := range c.Groups {
		seen := c.visits[g.Name]
		for id, sends := range c.sent {
			if !g.wants(sends[0].Topic, sends[0].Tag) {
				continue
			}
			acknowledged, offsets := 0, map[int64]bool{}
			for _, s := range sends {
				if s.OK {
					acknowledged++
					if s.placed() {
						offsets[s.Offset] = true
					}
				}
			}
			got, acknowledged := 0, c.wanted(sends, acknowledged)
			for _, slot := range c.appears[id] {
				if v := seen[slot]; v != nil && len(v.deliveries) > 0 {
					got++
					delete(offsets, slot.Offset)
				} else {
					c.report.Lost++
					c.broken(Lost, "%q in %v arrived at %s and never at %s", id, slot, c.holds[slot].Consumers, g.Name)
				}
			}
			if got < acknowledged {
				c.report.Lost += acknowledged - got
				c.broken(Lost, "%q was acknowledged %d times and arrived at %s from %d places", id, acknowledged, g.Name, got)
			} else if len(offsets) > 0 {
				c.broken(Place, "%q was acknowledged at offsets %v and arrived at %s from %v", id, offsets, g.Name, c.appears[id])
			}
		}
	}
}

// attempts checks one group's deliveries of one place among themselves.
func (c *checker) attempts(g Consumers, v *visit) {
	byAttempt := slices.Clone(v.deliveries)
	slices.SortFunc(byAttempt, func(a, b *Delivery) int {
		return cmp.Or(cmp.Compare(a.Attempt, b.Attempt), cmp.Compare(a.Begin, b.Begin))
	})
	latest := int64(math.MinInt64) // Begin of what had fewer attempts
	for i, d := range byAttempt {
		if d.Attempt < 1 {
			c.broken(Attempts, "%s got %q from %v as attempt %d", g.Name, d.ID, v.slot, d.Attempt)
		}
		if d.End < latest {
			c.broken(Attempts, "%s got %q from %v as attempt %d after it had got it as an earlier attempt", g.Name, d.ID, v.slot, d.Attempt)
		}
		latest = max(latest, d.Begin)
		if i > 0 && byAttempt[i-1].Attempt == d.Attempt && (d.AttemptID == "" || byAttempt[i-1].AttemptID != d.AttemptID) {
			c.broken(Attempts, "%s got %q from %v twice as attempt %d", g.Name, d.ID, v.slot, d.Attempt)
		}
	}
}

// settled checks that nothing came again once its acknowledgement had succeeded.
// A lease that was acknowledged was the last one: a later attempt is wrong
// whenever it came, the same attempt (its receive was repeated) if it was asked
// for afterwards. But for an acknowledgement that came when a later attempt had been
// acknowledged: it is told that the message is done with, which is so.
func (c *checker) settled(g Consumers, v *visit) {
	for _, a := range v.acks {
		if !a.OK {
			continue
		}
		done := slices.ContainsFunc(v.acks, func(other *Ack) bool { return other.Attempt > a.Attempt && other.Begin < a.End })
		if done {
			c.report.Late++
		}
		for _, d := range v.deliveries {
			if d.Attempt > a.Attempt && !done || d.Begin > a.End {
				c.broken(Redelivered, "%s got %q from %v as attempt %d although attempt %d was acknowledged", g.Name, d.ID, v.slot, d.Attempt, a.Attempt)
			}
		}
	}
}

// order checks one ordered group.
func (c *checker) order(g Consumers) {
	for _, line := range c.lines(g.Name) {
		// The last moment by which everything before was at least being settled.
		settled, last := int64(math.MinInt64), (*visit)(nil)
		for _, v := range line {
			for _, d := range v.deliveries {
				if d.End < settled {
					c.broken(Order, "%s got %v of message group %q before %v was acknowledged", g.Name, v.slot, v.group, last.slot)
				}
			}
			begun := int64(math.MaxInt64)
			for _, a := range v.acks {
				begun = min(begun, a.Begin)
			}
			if begun > settled {
				settled, last = begun, v
			}
		}
		// The first moment at which anything after had arrived.
		after, next := int64(math.MaxInt64), (*visit)(nil)
		for _, v := range slices.Backward(line) {
			for _, d := range v.deliveries {
				if d.Begin > after {
					c.broken(Order, "%s got %v of message group %q again after %v", g.Name, v.slot, v.group, next.slot)
				}
			}
			for _, d := range v.deliveries {
				if d.End < after {
					after, next = d.End, v
				}
			}
		}
	}
}

// lines returns what a group got, by queue and message group, in queue order.
func (c *checker) lines(consumers string) map[string][]*visit {
	lines := map[string][]*visit{}
	for _, v := range c.visits[consumers] {
		if len(v.deliveries) > 0 {
			key := fmt.Sprintf("%s/%d/%s", v.slot.Topic, v.slot.Queue, v.group)
			lines[key] = append(lines[key], v)
		}
	}
	for _, line := range lines {
		slices.SortFunc(line, func(a, b *visit) int { return cmp.Compare(a.slot.Offset, b.slot.Offset) })
	}
	return lines
}

// stored checks the offsets that senders were told against the order they sent in.
func (c *checker) stored() {
	lines := map[[2]string][]*Send{}
	for i := range c.Sends {
		if s := &c.Sends[i]; s.OK && s.Group != "" && !s.Once {
			key := [2]string{s.Topic, s.Group}
			lines[key] = append(lines[key], s)
		}
	}
	for _, line := range lines {
		slices.SortFunc(line, func(a, b *Send) int { return cmp.Compare(a.Offset, b.Offset) })
		began := line[0] // of what is stored before, what began last
		for i, s := range line[1:] {
			before := line[i]
			switch {
			case before.Call == s.Call && before.Position > s.Position, s.End < began.Begin:
				c.broken(Stored, "%q of message group %q was sent before %q and is stored after it", s.ID, s.Group, began.ID)
			case before.Offset == s.Offset:
				c.broken(Stored, "%q and %q of message group %q were both stored at offset %d", before.ID, s.ID, s.Group, s.Offset)
			}
			if s.Begin > began.Begin {
				began = s
			}
		}
	}
}
