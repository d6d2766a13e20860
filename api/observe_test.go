package api

import (
	"context"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/session"
	"github.com/gantry-mq/gantry/broker/topic"
	gantryv1 "github.com/gantry-mq/gantry/proto/gantryv1"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

func (f *fixture) observe() gantryv1.ObserveClient { return gantryv1.NewObserveClient(f.dial()) }

// applied waits until what is durable is also applied: an acknowledgement is answered
// before that.
func (f *fixture) applied() {
	f.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		if st := f.broker.Stats(); st.Applied >= st.Log.Committed {
			return
		}
		if time.Now().After(deadline) {
			f.t.Fatal("the log is not applied")
		}
	}
}

func TestRolesAndStandingsAreAllOnTheWire(t *testing.T) {
	for r := session.Producer; r <= session.LiteSimpleConsumer; r++ {
		if clientRoles[r] == 0 {
			t.Errorf("role %d has no number on the wire", r)
		}
	}
	for p := broker.GroupBehind; p <= broker.GroupDone; p++ {
		if standings[p] == 0 {
			t.Errorf("place %d has no number on the wire", p)
		}
	}
	if len(gantryv1.ClientRole_name) != len(clientRoles)+1 || len(gantryv1.GroupStanding_name) != len(standings)+1 {
		t.Error("a number of the wire is not one of the broker's")
	}
}

func TestClientsAreListedWithWhatTheyHoldAndWereRefused(t *testing.T) {
	f := start(t, Options{})
	f.topic("t", topic.Normal, 1)
	for i := range 5 {
		f.send("t", fmt.Sprint("m", i), "body")
	}
	settle(t, f.telemetry(as("consumer-1")), consumerSettings("g", "*"))
	req := receiving("t", "g")
	req.BatchSize = 3
	st, got := f.receive(as("consumer-1"), req)
	if st.Code != v2.Code_OK || len(got) != 3 {
		t.Fatal(st, len(got))
	}
	f.ack("g", "t", got[0].GetSystemProperties().GetReceiptHandle())
	f.receive(as("consumer-1"), receiving("nope", "g"))
	settle(t, f.telemetry(as("producer-1")), producerSettings("t"))

	f.applied()
	list := func(group string) []*gantryv1.ConnectedClient {
		t.Helper()
		r, err := f.observe().Clients(t.Context(), &gantryv1.ClientsRequest{Group: group})
		if err != nil {
			t.Fatal(err)
		}
		return r.GetClients()
	}
	all := list("")
	if len(all) != 2 {
		t.Fatalf("%d clients: %v", len(all), all)
	}
	c, p := all[0], all[1]
	if c.GetClient().GetId() != "consumer-1" || c.GetClient().GetVersion() != "5.1.4" || c.GetClient().GetLanguage() != "GO" || c.GetGroup() != "g" ||
		c.GetRole() != gantryv1.ClientRole_CLIENT_PUSH_CONSUMER || !c.GetStreaming() || c.GetInFlight() != 2 {
		t.Errorf("the consumer is shown as %v", c)
	}
	if s := c.GetSubscriptions(); len(s) != 1 || s[0].GetTopic() != "t" || s[0].GetInFlight() != 2 || s[0].GetLag() != 2 {
		t.Errorf("its subscriptions are shown as %v", s)
	}
	if e := c.GetLastError(); e.GetCode() != "TOPIC_NOT_FOUND" || e.GetMethod() != "ReceiveMessage" || !strings.Contains(e.GetMessage(), "nope") {
		t.Errorf("its last error is shown as %v", e)
	}
	if p.GetRole() != gantryv1.ClientRole_CLIENT_PRODUCER || len(p.GetPublishing()) != 1 || p.GetLastError() != nil {
		t.Errorf("the producer is shown as %v", p)
	}
	if only := list("g"); len(only) != 1 || only[0].GetClient().GetId() != "consumer-1" {
		t.Errorf("of the group: %v", only)
	}
	if none := list("other"); len(none) != 0 {
		t.Errorf("of another group: %v", none)
	}
}

func TestAStreamsClientIsListedWithWhatItSaysAndHolds(t *testing.T) {
	f := start(t, Options{})
	f.topic("t", topic.Normal, 1)
	f.send("t", "m", "body")
	introduced := func(s *gantryv1.Subscribe) {
		s.Agent = &gantryv1.ClientAgent{Language: "GO", Version: "5.1.4", Host: "h"}
	}
	f.consumer(t.Context(), "t", "g", introduced, leases(&gantryv1.LeaseMode{Invisible: durationpb.New(30 * time.Second)}))
	deadline := time.Now().Add(20 * time.Second)
	for {
		r, err := f.observe().Clients(t.Context(), &gantryv1.ClientsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Clients) == 1 && r.Clients[0].GetInFlight() == 1 && r.Clients[0].GetClient().GetVersion() == "5.1.4" && r.Clients[0].GetSubscriptions()[0].GetInFlight() == 1 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("shown as %v", r.Clients)
		}
	}
}

func TestTheOverviewCountsWhatHappened(t *testing.T) {
	dir := t.TempDir()
	f := start(t, Options{Version: "v1", DataDir: dir, Durability: "sync"})
	f.topic("t", topic.Normal, 2)
	f.topic("u", topic.Normal, 1)
	for i := range 4 {
		f.send("t", fmt.Sprint("m", i), "body")
	}
	_, got := f.receive(as("c"), receiving("t", "g"))
	f.ack("g", "t", got[0].GetSystemProperties().GetReceiptHandle())
	f.applied()
	o, err := f.observe().Overview(t.Context(), &gantryv1.OverviewRequest{})
	if err != nil {
		t.Fatal(err)
	}
	v := o.GetTraffic()
	if v.GetMessagesIn() != 4 || v.GetBytesIn() != 16 || v.GetMessagesOut() != uint64(len(got)) || v.GetAcknowledged() != 1 || v.GetTopics() != 2 || v.GetGroups() != 1 ||
		v.GetInFlight() != int64(len(got)-1) || v.GetLag() != int64(4-len(got)) {
		t.Errorf("after 4 sends, %d deliveries and an ack: %v", len(got), v)
	}
	if o.GetServer().GetVersion() != "v1" || o.GetDisk().GetTotal() <= o.GetDisk().GetFree() || o.GetDisk().GetFree() <= 0 || o.GetNotReady() != "" {
		t.Errorf("server %v, disk %v, not ready: %q", o.GetServer(), o.GetDisk(), o.GetNotReady())
	}
	if p := o.GetProcess(); p.GetResident() <= p.GetHeap() || p.GetHeap() <= 0 || p.GetOpenFiles() <= 0 || p.GetCpu().AsDuration() <= 0 || p.GetOpenFilesLimit() <= 0 {
		t.Errorf("process %v", p)
	}
	topics, err := f.observe().Topics(t.Context(), &gantryv1.TopicsRequest{})
	if err != nil || len(topics.GetTopics()) != 2 {
		t.Fatal(topics, err)
	}
	if x := topics.GetTopics()[0]; x.GetTopic().GetName() != "t" || x.GetMessages() != 4 || x.GetMessagesIn() != 4 || x.GetBytes() < 16 || x.GetBytesEstimated() {
		t.Errorf("topic %v", x)
	}
	groups, err := f.observe().Groups(t.Context(), &gantryv1.GroupsRequest{})
	if err != nil || len(groups.GetGroups()) != 1 {
		t.Fatal(groups, err)
	}
	if x := groups.GetGroups()[0].GetTopics(); len(x) != 1 || x[0].GetTopic() != "t" || x[0].GetMessagesOut() != uint64(len(got)) || x[0].GetInFlight() != int64(len(got)-1) {
		t.Errorf("group %v", x)
	}
}

func TestHistoryIsSampledAndBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := startInBubble(t)
		time.Sleep(10*sampleEvery + time.Second)
		r, err := f.observe().History(t.Context(), &gantryv1.HistoryRequest{})
		if err != nil || len(r.GetSamples()) != 11 {
			t.Fatalf("%d samples after %v, %v", len(r.GetSamples()), 10*sampleEvery, err)
		}
		later, err := f.observe().History(t.Context(), &gantryv1.HistoryRequest{After: r.GetSamples()[7].GetTime()})
		if err != nil || len(later.GetSamples()) != 3 {
			t.Fatalf("%d samples after the eighth, %v", len(later.GetSamples()), err)
		}
	})
	var h history
	for range samplesKept + 7 {
		h.add(wireSample(time.UnixMilli(int64(len(h.ring)+h.next)), &broker.Stats{}))
	}
	all := h.since(time.Time{})
	if len(all) != samplesKept {
		t.Fatalf("%d samples are kept", len(all))
	}
	for i := range all[1:] {
		if !all[i+1].GetTime().AsTime().After(all[i].GetTime().AsTime()) {
			t.Fatalf("sample %d is not after the one before", i+1)
		}
	}
}

func TestWhyIsToldInWords(t *testing.T) {
	f := start(t, Options{})
	f.topic("t", topic.Normal, 1)
	f.send("t", "first", "body")
	f.send("t", "second", "body")
	req := receiving("t", "g")
	req.BatchSize = 1
	f.receive(as("worker-7"), req)
	why := func(id string) *gantryv1.GroupWhy {
		t.Helper()
		r, err := f.observe().Why(t.Context(), &gantryv1.WhyRequest{MessageId: id})
		if err != nil || len(r.GetMessages()) != 1 || len(r.GetMessages()[0].GetGroups()) != 1 {
			t.Fatal(r, err)
		}
		return r.GetMessages()[0].GetGroups()[0]
	}
	if w := why("first"); w.GetStanding() != gantryv1.GroupStanding_GROUP_HAS_IT || w.GetClient() != "worker-7" || w.GetNext() == nil || !strings.Contains(w.GetText(), "worker-7 has it, attempt 1") {
		t.Errorf("of the first: %v", w)
	}
	if w := why("second"); w.GetStanding() != gantryv1.GroupStanding_GROUP_BEHIND || !strings.Contains(w.GetText(), "the next one of its queue, and no consumer is connected") {
		t.Errorf("of the second: %v", w)
	}
	_, err := f.observe().Why(t.Context(), &gantryv1.WhyRequest{MessageId: "third"})
	if status.Code(err) != codes.NotFound {
		t.Errorf("of one that is not there: %v", err)
	}
}

func TestTheGatewayServesTheSameMethods(t *testing.T) {
	f := start(t, Options{})
	f.topic("t", topic.Normal, 1)
	g := f.server.HTTP()
	call := func(method string) (int, string) {
		r := httptest.NewRequest("POST", "http://localhost/api/gantry.v1."+method, strings.NewReader("{}"))
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("X-Gantry", "1")
		w := httptest.NewRecorder()
		g.ServeHTTP(w, r)
		return w.Code, w.Body.String()
	}
	for method, want := range map[string]string{
		"Management/ListTopics": `"NORMAL"`, "Observe/Overview": `"traffic"`, "GroupOps/Blocked": `INVALID_ARGUMENT`, "Filters/Test": `"code"`,
		"TopicOps/Purge": `"code"`, "DeadLetters/Discard": `"code"`, "Messages/Query": `"code"`,
	} {
		if code, body := call(method); !strings.Contains(body, want) {
			t.Errorf("%s: %d %s, without %s", method, code, body, want)
		}
	}
	if code, _ := call("Streams/Publish"); code != 404 {
		t.Errorf("Streams are served: %d", code)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := f.server.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
}
