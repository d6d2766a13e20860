package api

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/session"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/filter"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

const (
	// adminPage is how many messages QueryMessage asks the broker for at once, and
	// adminPages how often it does before it answers with what it has.
	adminPage  = 64
	adminPages = 64

	// adminBytes bounds the bodies of one answer, but for the first: clients take 4 MiB.
	adminBytes = 3 << 20
)

// messageSearch is a QueryMessage under way.
type messageSearch struct {
	broker *broker.Broker
	query  broker.MessageQuery
	tags   *filter.Tags
	queue  int64 // -1 = any
	host   string
	found  []*v2.Message
	bytes  int
	skip   int // so many that match come before the page that is asked for
}

// QueryMessage answers with whole messages, by id, key or lite topic, or those with
// tags, stored in the time range; without a search key, all in the range. An answer may
// be short: scroll_id goes on where it ended, and is empty after the last.
func (a *admin) QueryMessage(ctx context.Context, req *v2.ListMessageRequest) (*v2.ListMessageResponse, error) {
	s, err := a.search(ctx, req)
	if err == nil {
		err = s.run(ctx, int(req.GetMaxMessageNums()))
	}
	if err != nil {
		return &v2.ListMessageResponse{Status: statusFor(a.log, err)}, nil
	}
	return &v2.ListMessageResponse{Status: statusOK, Messages: s.found, ScrollId: s.query.Page}, nil
}

func (a *admin) search(ctx context.Context, req *v2.ListMessageRequest) (*messageSearch, error) {
	s := &messageSearch{broker: a.broker, queue: -1, host: localAddr(ctx)}
	s.query = broker.MessageQuery{Topic: resource(req.GetTopic()), Page: req.GetScrollId()}
	if t := req.GetBeginTimestamp(); t != nil {
		s.query.From = max(1, unixMilli(t))
	}
	if t := req.GetEndTimestamp(); t != nil {
		s.query.To = max(1, unixMilli(t)) + 1 // which it includes
	}
	var err error
	switch by := req.GetSearchKey().(type) {
	case *v2.ListMessageRequest_MessageId:
		s.query.ID = by.MessageId
	case *v2.ListMessageRequest_MessageKey:
		s.query.Key = by.MessageKey
	case *v2.ListMessageRequest_LiteTopic:
		s.query.LiteTopic = by.LiteTopic
	case *v2.ListMessageRequest_Subscription:
		if s.tags, err = filter.CompileTags(by.Subscription); err != nil {
			return nil, broker.Errorf(broker.IllegalFilter, "the subscription %q: %w", by.Subscription, err)
		}
	}
	if name := req.GetBrokerName(); name != "" && name != a.broker.Name() {
		return nil, broker.Errorf(broker.BadRequest, "there is no broker %q, this is %q", name, a.broker.Name())
	}
	if req.QueueId != nil {
		s.queue = int64(req.GetQueueId())
	}
	switch n := req.GetMaxMessageNums(); {
	case n < 1 || n > broker.MaxMessagePage:
		return nil, broker.Errorf(broker.BadRequest, "max_message_nums is %d, it must be 1 to %d", n, broker.MaxMessagePage)
	case req.PageNum != nil && req.GetScrollId() != "":
		return nil, broker.Errorf(broker.BadRequest, "a page number and a scroll_id are given: one of them")
	case req.PageNum != nil:
		size := int64(cmp.Or(req.GetPageSize(), n))
		before := (int64(req.GetPageNum()) - 1) * size
		if before < 0 || size < 0 || before > adminPage*adminPages {
			return nil, broker.Errorf(broker.BadRequest, "pages are counted from 1, and reach %d messages far: scroll_id has no limit", adminPage*adminPages)
		}
		s.skip = int(before)
		req.MaxMessageNums = int32(min(size, int64(n)))
	}
	return s, nil
}

// run collects up to limit messages.
func (s *messageSearch) run(ctx context.Context, limit int) error {
	for range adminPages {
		s.query.Limit = min(adminPage, s.skip+limit-len(s.found))
		page, next, err := s.broker.FindMessages(ctx, s.query)
		if err != nil {
			return err
		}
		if fit := s.fitting(page); fit < len(page) {
			// What fits is a page of its own, so that the next one begins behind it.
			if fit == 0 {
				return nil
			}
			s.query.Limit = fit
			if page, next, err = s.broker.FindMessages(ctx, s.query); err != nil {
				return err
			}
		}
		for i := range page {
			if err := s.take(ctx, &page[i]); err != nil {
				return err
			}
		}
		if s.query.Page = next; next == "" || len(s.found) == limit {
			return nil
		}
	}
	return nil
}

func (s *messageSearch) wants(f *broker.FoundMessage) bool {
	return (s.queue < 0 || s.queue == int64(f.Queue)) && (s.tags == nil || s.tags.Match([]byte(f.Tag)))
}

// sizeBound is what a message's body is at most when it is decompressed.
func sizeBound(f *broker.FoundMessage) int {
	if f.Packed {
		return broker.MaxBodyBytes
	}
	return f.BodySize
}

// fitting is how many messages of a page there is room for.
func (s *messageSearch) fitting(page []broker.FoundMessage) int {
	bytes, some, skip := s.bytes, len(s.found) > 0, s.skip
	for i := range page {
		if !s.wants(&page[i]) {
			continue
		}
		if skip > 0 {
			skip--
			continue
		}
		if bytes += sizeBound(&page[i]); bytes > adminBytes && some {
			return i
		}
		some = true
	}
	return len(page)
}

func (s *messageSearch) take(ctx context.Context, f *broker.FoundMessage) error {
	if !s.wants(f) {
		return nil
	}
	if s.skip > 0 {
		s.skip--
		return nil
	}
	m, err := wholeMessage(ctx, s.broker, s.query.Topic, f, s.host)
	if broker.ReasonOf(err) == broker.MessageNotFound {
		return nil // retention came first
	}
	if err != nil {
		return err
	}
	s.found = append(s.found, m)
	s.bytes += sizeBound(f)
	return nil
}

// wholeMessage reads a message that was found, as a delivery without a receipt.
func wholeMessage(ctx context.Context, b *broker.Broker, topic record.Resource, f *broker.FoundMessage, host string) (m *v2.Message, err error) {
	read := func(f broker.FoundMessage, r *record.Message) (err error) {
		m, err = unpacked(ctx, b, &broker.Delivered{Message: *r, Topic: topic, Queue: f.Queue, Offset: f.Offset, ID: f.ID}, host)
		return err
	}
	if f.Offset != record.NoOffset {
		return m, b.MessageAt(topic, f.Queue, f.Offset, read)
	}
	return m, b.MessageByID(ctx, topic, f.ID, read)
}

// VerifyMessage has a consumer consume a message that is stored, outside of its group's
// progress, and answers with the status that the consumer gives.
func (a *admin) VerifyMessage(ctx context.Context, req *v2.VerifyMessageRequest) (*v2.VerifyMessageResponse, error) {
	topic := resource(req.GetTopic())
	m, err := wholeMessage(ctx, a.broker, topic, &broker.FoundMessage{ID: req.GetMessageId(), Offset: record.NoOffset}, localAddr(ctx))
	if err != nil {
		return &v2.VerifyMessageResponse{Status: statusFor(a.log, err)}, nil
	}
	answer, err := a.messaging.ask(ctx, req.GetClientId(), resource(req.GetGroup()), m,
		func(nonce string) session.Command { return session.VerifyMessage{Nonce: nonce} })
	if err != nil {
		return &v2.VerifyMessageResponse{Status: statusFor(a.log, err)}, nil
	}
	return &v2.VerifyMessageResponse{Status: answered(answer)}, nil
}

// AdminSendMessage stores one message under the rules of SendMessage. It gets an id
// unless its system properties have one. ext_info says nothing that matters here.
func (a *admin) AdminSendMessage(ctx context.Context, req *v2.AdminSendMessageRequest) (*v2.AdminSendMessageResponse, error) {
	sent, err := a.send(ctx, req)
	if err != nil {
		return &v2.AdminSendMessageResponse{Status: statusFor(a.log, err)}, nil
	}
	return &v2.AdminSendMessageResponse{Status: statusFor(a.log, sent.Err), MessageId: sent.MessageID}, nil
}

func (a *admin) send(ctx context.Context, req *v2.AdminSendMessageRequest) (broker.Sent, error) {
	system := &v2.SystemProperties{}
	if req.GetSystemProperties() != nil {
		system = proto.CloneOf(req.GetSystemProperties())
	}
	if system.GetMessageType() == v2.MessageType_TRANSACTION {
		return broker.Sent{}, broker.Errorf(broker.BadRequest, "a transactional message needs a producer that can be asked about it")
	}
	if req.Tag != nil {
		system.Tag = req.Tag
	}
	if req.Key != nil {
		system.Keys = append(system.Keys, req.GetKey())
	}
	if system.MessageId == "" {
		var id [16]byte
		rand.Read(id[:])
		system.MessageId = fmt.Sprintf("01%X", id)
	}
	b, err := proto.Marshal(&v2.SendMessageRequest{Messages: []*v2.Message{{
		Topic: req.GetTopic(), UserProperties: req.GetUserProperties(), SystemProperties: system, Body: req.GetBody(),
	}}})
	if err != nil {
		return broker.Sent{}, err
	}
	r := new(sendRequest)
	if err := r.read(b); err != nil {
		return broker.Sent{}, err
	}
	r.fillHosts(ctx)
	sent, err := a.broker.Send(ctx, r.messages)
	if err != nil {
		return broker.Sent{}, err
	}
	return sent[0], nil
}
