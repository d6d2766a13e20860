package api

import (
	"context"
	"crypto/sha1"
	"fmt"
	"math"
	"net"
	"reflect"
	"testing"
	"time"

	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/commitlog/record"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

func peerContext() context.Context {
	return peer.NewContext(context.Background(), &peer.Peer{
		Addr:      &net.TCPAddr{IP: net.IPv4(10, 0, 0, 7), Port: 4711},
		LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8081},
	})
}

func TestOutgoingReadsEveryField(t *testing.T) {
	at := time.UnixMilli(1700000000123)
	m := &v2.Message{
		Topic:          &v2.Resource{ResourceNamespace: "ns", Name: "t"},
		UserProperties: map[string]string{"k": "v"},
		Body:           []byte("body"),
		SystemProperties: &v2.SystemProperties{
			Tag: ptr("tag"), Keys: []string{"a b", "c"}, MessageId: "id",
			BodyEncoding: v2.Encoding_GZIP, MessageType: v2.MessageType_TRANSACTION,
			BornTimestamp: timestamppb.New(at), BornHost: "host", QueueId: 3,
			DeliveryTimestamp: timestamppb.New(at.Add(time.Minute)),
			MessageGroup:      ptr("mg"), TraceContext: ptr("trace"), LiteTopic: ptr("lite"), Priority: ptr(int32(4)),
			OrphanedTransactionRecoveryDuration: durationpb.New(1500 * time.Millisecond),
		},
	}
	got := outgoing(t, m)
	want := broker.Outgoing{
		Topic: record.Resource{Namespace: "ns", Name: "t"}, ID: "id", Body: m.Body, Packing: record.FlagGzip, Tag: "tag",
		Keys: []string{"a b", "c"}, User: []broker.Property{{Key: "k", Value: "v"}}, Group: "mg", HasGroup: true,
		BornTime: at.UnixMilli(), BornHost: "host", Trace: "trace", DueTime: at.Add(time.Minute).UnixMilli(),
		HasPriority: true, Priority: 4, LiteTopic: "lite", Transaction: true, RecoverySeconds: 2,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestOutgoingSurvivesWhatIsMissingOrAbsurd(t *testing.T) {
	for _, c := range []struct {
		name string
		m    *v2.Message
		want func(broker.Outgoing) bool
	}{
		{"no message", nil, func(o broker.Outgoing) bool { return o.Topic.Name == "" && !o.HasGroup && !o.HasPriority }},
		{"nothing in it", &v2.Message{}, func(o broker.Outgoing) bool { return o.ID == "" && o.DueTime == 0 && o.BornTime == 0 }},
		{"host falls back to the peer", &v2.Message{}, func(o broker.Outgoing) bool { return o.BornHost == "10.0.0.7:4711" }},
		{"born before 1970", system(&v2.SystemProperties{BornTimestamp: &timestamppb.Timestamp{Seconds: -5}}),
			func(o broker.Outgoing) bool { return o.BornTime == 0 }},
		{"born time invalid", system(&v2.SystemProperties{BornTimestamp: &timestamppb.Timestamp{Nanos: -1, Seconds: 9}}),
			func(o broker.Outgoing) bool { return o.BornTime == 0 }},
		{"due in 1970 is due now", system(&v2.SystemProperties{DeliveryTimestamp: &timestamppb.Timestamp{}}),
			func(o broker.Outgoing) bool { return o.DueTime == 1 }},
		{"due long ago is due now", system(&v2.SystemProperties{DeliveryTimestamp: &timestamppb.Timestamp{Seconds: math.MinInt64}}),
			func(o broker.Outgoing) bool { return o.DueTime == 1 }},
		{"due beyond all time is not due now", system(&v2.SystemProperties{DeliveryTimestamp: &timestamppb.Timestamp{Seconds: math.MaxInt64, Nanos: math.MaxInt32}}),
			func(o broker.Outgoing) bool { return o.DueTime == math.MaxInt64 }},
		{"empty group is still a group", system(&v2.SystemProperties{MessageGroup: ptr("")}),
			func(o broker.Outgoing) bool { return o.HasGroup && o.Group == "" }},
		{"recovery beyond all time", system(&v2.SystemProperties{OrphanedTransactionRecoveryDuration: &durationpb.Duration{Seconds: math.MaxInt64, Nanos: 1}}),
			func(o broker.Outgoing) bool { return o.RecoverySeconds > broker.MaxRecovery.Nanoseconds()/1e9 }},
	} {
		if got := outgoing(t, c.m); !c.want(got) {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}

// outgoing is m as a send brings it to the broker.
func outgoing(t testing.TB, m *v2.Message) broker.Outgoing {
	t.Helper()
	var r sendRequest
	if err := r.read(marshal(t, &v2.SendMessageRequest{Messages: []*v2.Message{m}})); err != nil {
		t.Fatal(err)
	}
	r.fillHosts(peerContext())
	return r.messages[0]
}

func marshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func system(p *v2.SystemProperties) *v2.Message { return &v2.Message{SystemProperties: p} }

// encode makes the record that the broker would write of o, and reads it back.
func encode(t testing.TB, o broker.Outgoing, withSum bool) broker.Delivered {
	t.Helper()
	var p []byte
	p = record.AppendField(p, record.FieldMessageID, o.ID)
	if o.Tag != "" {
		p = record.AppendField(p, record.FieldTag, o.Tag)
	}
	for _, k := range o.Keys {
		p = record.AppendField(p, record.FieldKey, k)
	}
	for _, u := range o.User {
		p = record.AppendUser(p, u.Key, u.Value)
	}
	if o.Group != "" {
		p = record.AppendField(p, record.FieldGroup, o.Group)
	}
	p = record.AppendField(p, record.FieldBornHost, o.BornHost)
	if o.Trace != "" {
		p = record.AppendField(p, record.FieldTrace, o.Trace)
	}
	if o.LiteTopic != "" {
		p = record.AppendField(p, record.FieldLiteTopic, o.LiteTopic)
	}
	if withSum {
		sum := sha1.Sum(o.Body)
		p = record.AppendField(p, record.FieldSHA1, string(sum[:]))
	}
	m := record.Message{
		Kind: record.KindMessage, Topic: 9, Queue: 2, Offset: 41, BornTime: o.BornTime, DueTime: o.DueTime,
		StoreTime: 1700000009000, Priority: o.Priority, Properties: p, Body: o.Body,
	}
	if o.Packing != 0 {
		m.Flags |= record.FlagGzip
	}
	if o.HasPriority {
		m.Flags |= record.FlagPriority
	}
	return broker.Delivered{Message: m, Topic: o.Topic, Queue: 2, Offset: 41, Handle: "handle", Attempt: 3}
}

func TestWhatIsSentIsDelivered(t *testing.T) {
	at := time.UnixMilli(1700000000123)
	for _, c := range []struct {
		name string
		p    *v2.SystemProperties
		typ  v2.MessageType
	}{
		{"plain", &v2.SystemProperties{}, v2.MessageType_NORMAL},
		{"all texts", &v2.SystemProperties{Tag: ptr("tag"), Keys: []string{"a b", "c"}, TraceContext: ptr("tr")}, v2.MessageType_NORMAL},
		{"compressed", &v2.SystemProperties{BodyEncoding: v2.Encoding_GZIP}, v2.MessageType_NORMAL},
		{"fifo", &v2.SystemProperties{MessageGroup: ptr("mg")}, v2.MessageType_FIFO},
		{"delay", &v2.SystemProperties{DeliveryTimestamp: timestamppb.New(at)}, v2.MessageType_DELAY},
		{"priority", &v2.SystemProperties{Priority: ptr(int32(0))}, v2.MessageType_PRIORITY},
		{"lite", &v2.SystemProperties{LiteTopic: ptr("l")}, v2.MessageType_LITE},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.p.MessageId, c.p.BornHost, c.p.BornTimestamp = "id", "host", timestamppb.New(at)
			if c.p.BodyEncoding == 0 {
				c.p.BodyEncoding = v2.Encoding_IDENTITY
			}
			sent := &v2.Message{
				Topic: &v2.Resource{ResourceNamespace: "ns", Name: "t"}, Body: []byte("body"),
				UserProperties: map[string]string{"a": "1", "b": ""}, SystemProperties: c.p,
			}
			d := encode(t, outgoing(t, sent), true)
			got, err := delivered(&d, "127.0.0.1:8081")
			if err != nil {
				t.Fatal(err)
			}
			want := proto.CloneOf(sent)
			wp := want.SystemProperties
			wp.BodyDigest = &v2.Digest{Type: v2.DigestType_SHA1, Checksum: fmt.Sprintf("%X", sha1.Sum(sent.Body))}
			wp.MessageType = c.typ
			wp.StoreTimestamp = timestamppb.New(time.UnixMilli(1700000009000))
			wp.StoreHost = "127.0.0.1:8081"
			wp.ReceiptHandle = ptr("handle")
			wp.QueueId, wp.QueueOffset, wp.DeliveryAttempt = 2, ptr(int64(41)), ptr(int32(3))
			if !proto.Equal(got, want) {
				t.Errorf("got  %v\nwant %v", got, want)
			}
		})
	}
}

func TestDeliveredAlwaysHasDigestAndAttempt(t *testing.T) {
	d := encode(t, broker.Outgoing{Body: []byte("x")}, false)
	d.Attempt, d.Handle = 0, "" // as pulled
	d.Origin = &broker.Origin{Topic: "from", MessageID: "mid"}
	got, err := delivered(&d, "")
	if err != nil {
		t.Fatal(err)
	}
	p := got.SystemProperties
	if want := fmt.Sprintf("%X", sha1.Sum([]byte("x"))); p.GetBodyDigest().GetChecksum() != want {
		t.Errorf("digest %v, want %s", p.GetBodyDigest(), want)
	}
	if p.GetDeliveryAttempt() != 1 || p.ReceiptHandle != nil || p.Tag != nil || p.MessageGroup != nil || p.DeliveryTimestamp != nil {
		t.Errorf("properties %v", p)
	}
	if p.GetDeadLetterQueue().GetTopic() != "from" || p.GetDeadLetterQueue().GetMessageId() != "mid" {
		t.Errorf("origin %v", p.GetDeadLetterQueue())
	}
}

func TestDeliveredReportsAMalformedRecord(t *testing.T) {
	d := encode(t, broker.Outgoing{Body: []byte("x")}, true)
	d.Message.Properties = append(d.Message.Properties, 200)
	if _, err := delivered(&d, ""); err == nil {
		t.Error("malformed properties were delivered")
	}
}
