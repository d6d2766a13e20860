package api

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/group"
	"github.com/gantry-mq/gantry/broker/session"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

// What the server decides for every client (wire-contract 3.4).
const (
	producerAttempts       = 3
	producerBackoffInitial = 10 * time.Millisecond
	producerBackoffMax     = time.Second
	producerBackoffFactor  = 2
)

// maxSettingsBytes bounds what is kept of a client: thousands of topics fit.
const maxSettingsBytes = 1 << 20

// Limits of the labels an application may give its client.
const (
	maxLabels      = 32
	maxLabelKey    = 64
	maxLabelValue  = 256
	maxLabelBytes  = 4 << 10
	reservedLabels = "rocketmq."
)

var labelKey = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_.-]*$`)

// register takes a client's settings in and returns them with the server's own
// decisions filled in.
func (m *messaging) register(ctx context.Context, s *v2.Settings) (*v2.Settings, error) {
	c := session.Client{
		ID:             clientID(ctx),
		User:           userOf(ctx),
		Language:       cmp.Or(header(ctx, headerLanguage), s.GetUserAgent().GetLanguage().String()),
		Version:        cmp.Or(s.GetUserAgent().GetVersion(), header(ctx, headerClientVersion)),
		Host:           s.GetUserAgent().GetHostname(),
		Remote:         remoteAddr(ctx),
		RequestTimeout: max(0, s.GetRequestTimeout().AsDuration()),
	}
	if n := proto.Size(s); n > maxSettingsBytes {
		return nil, broker.Errorf(broker.BadRequest, "settings have %d bytes, the limit is %d", n, maxSettingsBytes)
	}
	var err error
	if c.Role, err = roleOf(s); err != nil {
		return nil, err
	}
	if err := checkLabels(s.GetClientProperties()); err != nil {
		return nil, err
	}
	g := group.Group{}
	if c.Role == session.Producer {
		for _, t := range s.GetPublishing().GetTopics() {
			if err := m.broker.CheckTopicName(resource(t)); err != nil {
				return nil, err
			}
			c.Publishing = append(c.Publishing, resource(t))
		}
	} else {
		c.Group = resource(s.GetSubscription().GetGroup())
		if c.Subscriptions, err = m.subscriptions(s.GetSubscription()); err != nil {
			return nil, err
		}
		if g, err = m.groupFor(ctx, s.GetSubscription().GetGroup()); err != nil {
			return nil, err
		}
	}
	m.broker.Sessions().Register(c)
	return merge(s, c.Role, g), nil
}

// roleOf reads what the client is from the half of the settings it filled in;
// client_type says which consumer it is and must not contradict.
func roleOf(s *v2.Settings) (session.Role, error) {
	switch s.GetPubSub().(type) {
	case *v2.Settings_Publishing:
		switch s.GetClientType() {
		case v2.ClientType_PRODUCER, v2.ClientType_CLIENT_TYPE_UNSPECIFIED:
			return session.Producer, nil
		}
	case *v2.Settings_Subscription:
		if role, ok := consumerRoles[s.GetClientType()]; ok {
			return role, nil
		}
	default:
		return 0, broker.Errorf(broker.BadRequest, "there is no publishing or subscription data in settings")
	}
	return 0, broker.Errorf(broker.BadRequest, "client_type %v does not go with the publishing or subscription data in settings", s.GetClientType())
}

var consumerRoles = map[v2.ClientType]session.Role{
	v2.ClientType_CLIENT_TYPE_UNSPECIFIED: session.PushConsumer,
	v2.ClientType_PUSH_CONSUMER:           session.PushConsumer,
	v2.ClientType_SIMPLE_CONSUMER:         session.SimpleConsumer,
	v2.ClientType_PULL_CONSUMER:           session.PullConsumer,
	v2.ClientType_LITE_PUSH_CONSUMER:      session.LitePushConsumer,
	v2.ClientType_LITE_SIMPLE_CONSUMER:    session.LiteSimpleConsumer,
}

func checkLabels(labels map[string]string) error {
	if len(labels) > maxLabels {
		return illegalLabels("%d entries, at most %d", len(labels), maxLabels)
	}
	total := 0
	for k, v := range labels {
		total += len(k) + len(v)
		switch {
		case len(k) > maxLabelKey || !labelKey.MatchString(k):
			return illegalLabels("key %q is not 1 to %d characters of [a-zA-Z][a-zA-Z0-9_.-]*", k, maxLabelKey)
		case strings.HasPrefix(k, reservedLabels):
			return illegalLabels("key %q has the reserved prefix %q", k, reservedLabels)
		case utf8.RuneCountInString(v) > maxLabelValue:
			return illegalLabels("the value of %q is longer than %d characters", k, maxLabelValue)
		}
	}
	if total > maxLabelBytes {
		return illegalLabels("%d bytes, at most %d", total, maxLabelBytes)
	}
	return nil
}

func (m *messaging) subscriptions(s *v2.Subscription) ([]session.Subscription, error) {
	var subs []session.Subscription
	for _, e := range s.GetSubscriptions() {
		t := resource(e.GetTopic())
		if err := m.broker.CheckTopicName(t); err != nil {
			return nil, err
		}
		filterType, err := filterTypeOf(e.GetExpression().GetType())
		if err != nil {
			return nil, err
		}
		expr := e.GetExpression().GetExpression()
		if err := m.broker.CheckFilter(filterType, expr); err != nil {
			return nil, err
		}
		subs = append(subs, session.Subscription{Topic: t, SQL: filterType == broker.FilterSQL, Filter: expr})
	}
	return subs, nil
}

// groupFor is the consumer's group, or one with the defaults if groups do not
// come into being by themselves: then its first receive says so.
func (m *messaging) groupFor(ctx context.Context, name *v2.Resource) (group.Group, error) {
	g, err := m.broker.EnsureGroup(ctx, resource(name))
	if err != nil && broker.ReasonOf(err) == broker.GroupNotFound {
		return group.Group{MaxAttempts: broker.DefaultAttempts, Retry: group.Retry{Steps: group.DefaultSteps()}}, nil
	}
	return g, err
}

// merge answers s. Whatever the client said goes back to it, above all the case
// of pub_sub: clients discard an answer of the other case.
func merge(s *v2.Settings, role session.Role, g group.Group) *v2.Settings {
	s = proto.CloneOf(s)
	s.Metric = &v2.Metric{On: false}
	if role == session.Producer {
		s.BackoffPolicy = &v2.RetryPolicy{
			MaxAttempts: producerAttempts,
			// Java accepts no other strategy of a producer.
			Strategy: &v2.RetryPolicy_ExponentialBackoff{ExponentialBackoff: &v2.ExponentialBackoff{
				Initial:    durationpb.New(producerBackoffInitial),
				Max:        durationpb.New(producerBackoffMax),
				Multiplier: producerBackoffFactor,
			}},
		}
		p := s.GetPublishing()
		p.MaxBodySize = broker.MaxBodyBytes // 0 would make clients refuse every body
		p.ValidateMessageType = true
		return s
	}
	s.BackoffPolicy = &v2.RetryPolicy{
		MaxAttempts: g.MaxAttempts,
		// Listed steps even for an exponential policy: Python ignores the
		// other strategy, and Node reads its seconds as milliseconds.
		Strategy: &v2.RetryPolicy_CustomizedBackoff{CustomizedBackoff: &v2.CustomizedBackoff{Next: steps(g)}},
	}
	sub := s.GetSubscription()
	sub.Fifo = ptr(g.FIFO)
	sub.ReceiveBatchSize = ptr[int32](broker.MaxReceiveBatch) // 0 would make clients poll for nothing
	sub.LongPollingTimeout = durationpb.New(broker.MaxPollWait)
	if role == session.LitePushConsumer || role == session.LiteSimpleConsumer {
		sub.LiteSubscriptionQuota = ptr(int32(cmp.Or(g.Lite.Quota, broker.DefaultLiteQuota)))
		sub.MaxLiteTopicSize = ptr[int32](broker.MaxLiteTopicLen)
	}
	return s
}

// steps lists a group's retry delays, the last of which repeats.
func steps(g group.Group) []*durationpb.Duration {
	var list []*durationpb.Duration
	if len(g.Retry.Steps) > 0 {
		for _, d := range g.Retry.Steps {
			list = append(list, durationpb.New(d))
		}
		return list
	}
	for n := range min(broker.MaxRetrySteps, g.MaxAttempts) {
		d := g.Retry.Delay(n + 1)
		list = append(list, durationpb.New(d))
		if d >= g.Retry.Max {
			break
		}
	}
	return list
}

func illegalLabels(format string, args ...any) error {
	return &codedError{v2.Code_INVALID_CLIENT_PROPERTIES, "client_properties: " + fmt.Sprintf(format, args...)}
}
