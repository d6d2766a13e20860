package broker

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gantry-mq/gantry/broker/quota"
	"github.com/gantry-mq/gantry/broker/topic"
)

func limit(n uint64) *uint64 { return &n }

func setQuota(t testing.TB, b *Broker, k quota.Kind, subject string, l quota.Limit, n uint64) {
	t.Helper()
	change := [...]*uint64{quota.InFlight: nil}
	change[l] = &n
	if _, err := b.SetQuota(t.Context(), quota.Subject{Kind: k, Resource: name(subject)}, change); err != nil {
		t.Fatal(err)
	}
}

func TestQuotasSurviveKills(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir)
	setQuota(t, b, quota.Topic, "t", quota.SendMessages, 5)
	setQuota(t, b, quota.Topic, "t", quota.SendBytes, 500)
	setQuota(t, b, quota.Client, quota.Each, quota.ReceiveBytes, 7)
	setQuota(t, b, quota.User, "gone", quota.SendBytes, 7)
	if _, err := b.UnsetQuota(t.Context(), quota.Subject{Kind: quota.User, Resource: name("gone")}); err != nil {
		t.Fatal(err)
	}
	if l, ok := b.Quotas().Of(quota.Subject{Kind: quota.Topic, Resource: name("t")}); !ok || l != (quota.Limits{quota.SendMessages: 5, quota.SendBytes: 500}) {
		t.Fatal(l, ok)
	}
	survivesKills(t, b, dir)
	if err := b.checkpt.write(b.snapshot(quiet(t, b))); err != nil {
		t.Fatal(err)
	}
	survivesKills(t, b, dir)
}

func TestQuotasThatMeanNothingAreRefused(t *testing.T) {
	b := open(t, t.TempDir())
	zero := [...]*uint64{quota.InFlight: nil}
	one := zero
	one[quota.SendMessages] = limit(1)
	flight := zero
	flight[quota.InFlight] = limit(1)
	huge := zero
	huge[quota.SendBytes] = limit(quota.MaxLimit + 1)
	in := func(k quota.Kind, namespace, s string) quota.Subject {
		r := name(s)
		r.Namespace = namespace
		return quota.Subject{Kind: k, Resource: r}
	}
	for _, c := range []struct {
		subject quota.Subject
		change  [5]*uint64
		reason  Reason
	}{
		{in(quota.Topic, "", "t"), zero, BadRequest}, {in(quota.Topic, "", "t"), flight, BadRequest}, {in(quota.Group, "", "g"), one, BadRequest},
		{in(quota.Topic, "", "t"), huge, BadRequest}, {in(quota.Topic, "", "a b"), one, IllegalTopic}, {in(quota.Group, "", ""), flight, IllegalGroup},
		{in(quota.Client, "", ""), one, BadRequest}, {in(quota.Client, "n", "c"), one, BadRequest}, {in(quota.User, "", "a/b"), one, BadRequest},
		{in(quota.Namespace, "", "a b"), one, BadRequest}, {in(quota.Topic, "a b", quota.Each), one, BadRequest}, {in(0, "", "t"), one, BadRequest},
		{in(quota.Client, "", strings.Repeat("c", MaxClientID+1)), one, BadRequest},
	} {
		if _, err := b.SetQuota(t.Context(), c.subject, c.change); err == nil || ReasonOf(err) != c.reason {
			t.Errorf("%+v: %v", c.subject, err)
		}
	}
	if _, err := b.UnsetQuota(t.Context(), in(quota.Topic, "", "t")); ReasonOf(err) != QuotaNotFound {
		t.Error(err)
	}
}

func TestARefusedSendStoresNothingAndTellsTheLimit(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "t", topic.Normal, 1)
	makeTopic(t, b, "lite", topic.Lite, 1)
	setQuota(t, b, quota.Topic, "t", quota.SendBytes, 1) // the first is taken, and owed for minutes
	setQuota(t, b, quota.Client, "c", quota.SendBytes, 1)
	send(t, b, "t", msg("1", "a"))
	_, err := b.Send(t.Context(), []Outgoing{{Topic: name("t"), ID: "2", Body: []byte("b")}, {Topic: name("t"), ID: "3", Body: []byte("c")}})
	if ReasonOf(err) != TooManyRequests || !strings.Contains(err.Error(), `the quota of topic "t" is 1 bytes/s sent; try again in `) {
		t.Fatal(err)
	}
	lite := func() error {
		_, err := b.SendFrom(t.Context(), Caller{Client: "c"}, []Outgoing{{Topic: name("lite"), LiteTopic: "x", ID: "1", Body: []byte("x")}})
		return err
	}
	if err := lite(); err != nil {
		t.Fatal(err)
	}
	if err := lite(); ReasonOf(err) != TooManyRequests || !strings.Contains(err.Error(), `client "c"`) {
		t.Fatal(err)
	}
	want(t, receive(t, b, "t", "g"), "a#1")
	if st := b.Stats(); len(st.Throttled) != 2 || st.Throttled[0] != (Throttled{quota.Topic, quota.SendBytes, 1}) {
		t.Errorf("%+v", st.Throttled)
	}
}

func TestAGroupHasNoMoreInFlightThanItsQuota(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "t", topic.Normal, 4)
	makeTopic(t, b, "u", topic.Normal, 1)
	setQuota(t, b, quota.Group, "g", quota.InFlight, 10)
	for range 30 {
		send(t, b, "t", msg("t", "t"))
		send(t, b, "u", msg("u", "u"))
	}
	got := make(chan []Delivered)
	for i := range 8 {
		go func() { // at one time, and of two topics
			d, err := b.Receive(t.Context(), ReceiveRequest{Topic: name([]string{"t", "u"}[i%2]), Group: name("g"), Queue: -1, Batch: 4, Invisible: time.Minute})
			if err != nil && ReasonOf(err) != MessageNotFound {
				t.Error(err)
			}
			if d == nil {
				d = &Delivery{}
			}
			got <- d.Messages // not released: their texts are looked at
		}()
	}
	held := map[string][]Delivered{}
	n := 0
	for range 8 {
		for _, m := range <-got {
			held[m.Topic.Name] = append(held[m.Topic.Name], m)
			n++
		}
	}
	if n > 10 {
		t.Errorf("%d messages in flight, the quota is 10", n)
	}
	// Who found less than it had reserved may have kept another out: the rest is there.
	for _, tp := range []string{"t", "u"} {
		ms := receive(t, b, tp, "g", func(r *ReceiveRequest) { r.Invisible = time.Minute })
		held[tp] = append(held[tp], ms...)
		n += len(ms)
	}
	if n != 10 {
		t.Errorf("%d messages are in flight in the end, the quota is 10", n)
	}
	if ms := receive(t, b, "t", "g"); len(ms) != 0 {
		t.Errorf("%d more", len(ms))
	}
	if ms := receive(t, b, "t", "other"); len(ms) != 30 {
		t.Errorf("another group got %d", len(ms))
	}
	waiting := make(chan []Delivered)
	go func() {
		waiting <- receive(t, b, "t", "g", func(r *ReceiveRequest) { r.Wait = 20 * time.Second })
	}()
	for tp, ms := range held {
		if len(ms) > 0 { // one of the topics may have had all
			ack(t, b, tp, "g", ms...)
		}
	}
	if ms := <-waiting; len(ms) == 0 {
		t.Error("who waited was not told of the acknowledgements")
	}
}

// Over the log's own goroutines a bubble cannot be had, so this is the wait alone.
func TestAReceiveThatIsHeldBackEndsAsOneThatFindsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Broker{ctx: t.Context(), quotas: quota.NewTable(sinceStart())}
		for _, c := range []struct {
			wait, retry time.Duration
			again       bool
		}{{time.Second, 300 * time.Millisecond, true}, {time.Second, 3 * time.Second, false}} {
			w := b.waitFor(t.Context(), c.wait, nil)
			began := time.Now()
			err := w.hold(&quota.Excess{Of: quota.Subject{Kind: quota.Group, Resource: name("g")}, Retry: c.retry})
			w.end()
			if (err == nil) != c.again || err != nil && ReasonOf(err) != MessageNotFound || time.Since(began) != min(c.wait, c.retry) {
				t.Errorf("%+v: %v after %v", c, err, time.Since(began))
			}
		}
	})
}

func TestAPullAndAReaderAreHeldBack(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "t", topic.Normal, 1)
	for range 5 {
		send(t, b, "t", msg("m", "m"))
	}
	setQuota(t, b, quota.User, "u", quota.ReceiveBytes, 1)
	pull := func(user string) (int, error) {
		d, err := b.Pull(t.Context(), PullRequest{Topic: name("t"), Group: name("g"), Batch: 32, From: Caller{User: user}})
		if d == nil {
			return 0, err
		}
		defer d.Release()
		return len(d.Messages), err
	}
	if n, err := pull("u"); n != 1 || err != nil {
		t.Error(n, err)
	}
	if n, err := pull("u"); n != 0 || ReasonOf(err) != MessageNotFound || !strings.Contains(err.Error(), `user "u"`) {
		t.Error(n, err)
	}
	if n, err := pull("other"); n != 5 || err != nil {
		t.Error(n, err)
	}
	r, err := b.Read(t.Context(), ReadRequest{Topic: name("t"), Start: Start{Policy: StartEarliest}, From: Caller{User: "u"}})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var short *quota.Excess
	if c, err := r.Next(1<<20, 100); c != nil || !errors.As(err, &short) || short.Of.Name != "u" {
		t.Error(c, err)
	}
	if _, err := b.UnsetQuota(t.Context(), short.Of); err != nil {
		t.Fatal(err)
	}
	<-short.Changed
	c, err := r.Next(1<<20, 100)
	if err != nil || c.Messages != 5 {
		t.Fatal(c, err)
	}
	c.Release()
}
