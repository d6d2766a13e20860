package broker

import (
	"strings"
	"testing"

	"github.com/gantry-mq/gantry/broker/admission"
	"github.com/gantry-mq/gantry/broker/topic"
)

// Sends that find no room are refused, with what there is not enough of and when to
// come again; nothing else is, and when there is room they go on.
func TestSendsBeyondTheBoundAreRefusedAndNothingElseIs(t *testing.T) {
	b := open(t, t.TempDir(), func(o *Options) { o.SendMemory = 8 * admission.CallBytes })
	makeTopic(t, b, "T", topic.Normal, 1)
	send(t, b, "T", msg("a", "x"))
	var under []admission.Pass
	for {
		p, ok := b.gate.TryEnter(admission.Unary, 0)
		if !ok {
			break
		}
		under = append(under, p)
	}
	m := msg("id", "x")
	m.Topic = name("T")
	_, err := b.Send(t.Context(), []Outgoing{m})
	if ReasonOf(err) != TooManyRequests || !strings.Contains(err.Error(), "memory is saturated") || !strings.Contains(err.Error(), "try again in") {
		t.Errorf("without room: %v", err)
	}
	if got := receive(t, b, "T", "G"); len(got) != 1 {
		t.Errorf("%d messages were received meanwhile, want 1", len(got))
	}
	if a := b.Stats().Admission; a.Refused[Memory] != 1 || a.Sends != int64(len(under)) {
		t.Errorf("Stats say %+v", a)
	}
	for _, p := range under {
		b.gate.Leave(p)
	}
	send(t, b, "T", msg("b", "x"))
	if a := b.Stats().Admission; a.Sends != 0 || a.Bytes != 0 {
		t.Errorf("when all is answered, Stats say %+v", a)
	}
}
