package broker

import (
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// System topics of the reference, which clients must not name (wire-contract 2).
var systemTopics = map[string]bool{
	"TBW102": true, "SCHEDULE_TOPIC_XXXX": true, "BenchmarkTest": true,
	"RMQ_SYS_TRANS_HALF_TOPIC": true, "RMQ_SYS_TRACE_TOPIC": true, "RMQ_SYS_TRANS_OP_HALF_TOPIC": true,
	"TRANS_CHECK_MAX_TIME_TOPIC": true, "SELF_TEST_TOPIC": true, "OFFSET_MOVED_EVENT": true, "CHECKPOINT_TOPIC": true,
}

// DLQPrefix begins the name of a group's dead-letter topic.
const DLQPrefix = "%DLQ%"

func nameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-' || c == '%' || c == '|'
}

func badName(s string) bool {
	for i := range len(s) {
		if !nameByte(s[i]) {
			return true
		}
	}
	return s == ""
}

// CheckTopicName refuses what cannot be a topic's name: IllegalTopic.
func (b *Broker) CheckTopicName(r record.Resource) error { return checkTopicName(r) }

func checkTopicName(r record.Resource) error {
	switch {
	case strings.TrimSpace(r.Name) == "":
		return Errorf(IllegalTopic, "the topic is blank")
	case len(r.Name) > MaxTopicLen:
		return Errorf(IllegalTopic, "the topic has %d characters, the limit is %d", len(r.Name), MaxTopicLen)
	case badName(r.Name):
		return Errorf(IllegalTopic, "the topic %q has characters outside [%%|a-zA-Z0-9_-]", clip(r.Name))
	case systemTopics[r.Name] || strings.HasPrefix(r.Name, "rmq_sys_"):
		return Errorf(IllegalTopic, "cannot access system topic %q", r.Name)
	}
	if err := checkNamespace(r); err != nil {
		return Errorf(IllegalTopic, "%w", err)
	}
	return nil
}

// CheckGroupName refuses what cannot be a consumer group's name: IllegalGroup.
func (b *Broker) CheckGroupName(r record.Resource) error { return checkGroupName(r) }

func checkGroupName(r record.Resource) error {
	switch {
	case strings.TrimSpace(r.Name) == "":
		return Errorf(IllegalGroup, "the consumer group is blank")
	case len(r.Name) > MaxGroupLen:
		return Errorf(IllegalGroup, "the consumer group has %d characters, the limit is %d", len(r.Name), MaxGroupLen)
	case badName(r.Name):
		return Errorf(IllegalGroup, "the consumer group %q has characters outside [%%|a-zA-Z0-9_-]", clip(r.Name))
	case strings.HasPrefix(r.Name, "CID_RMQ_SYS_"), r.Name == "DEFAULT_CONSUMER":
		return Errorf(IllegalGroup, "the consumer group %q is reserved", r.Name)
	}
	if err := checkNamespace(r); err != nil {
		return Errorf(IllegalGroup, "%w", err)
	}
	return nil
}

func checkNamespace(r record.Resource) error {
	if len(r.Namespace) > MaxTopicLen {
		return Errorf(BadRequest, "the namespace has %d characters, the limit is %d", len(r.Namespace), MaxTopicLen)
	}
	if r.Namespace != "" && badName(r.Namespace) {
		return Errorf(BadRequest, "the namespace %q has characters outside [%%|a-zA-Z0-9_-]", clip(r.Namespace))
	}
	return nil
}

// clip bounds what of a client's text goes into an error.
func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "..."
	}
	return s
}

// Reserved names that user properties must not have: wire-contract 4.4.
var reservedKeys = func() map[string]bool {
	m := map[string]bool{}
	for _, k := range strings.Fields(`TRACE_ON MSG_REGION KEYS TAGS WAIT DELAY RETRY_TOPIC REAL_TOPIC REAL_QID TRAN_MSG
		PGROUP MIN_OFFSET MAX_OFFSET BUYER_ID ORIGIN_MESSAGE_ID TRANSFER_FLAG CORRECTION_FLAG MQ2_FLAG RECONSUME_TIME
		UNIQ_KEY MAX_RECONSUME_TIMES CONSUME_START_TIME POP_CK POP_CK_OFFSET 1ST_POP_TIME TRAN_PREPARED_QUEUE_OFFSET
		DUP_INFO EXTEND_UNIQ_INFO INSTANCE_ID CORRELATION_ID REPLY_TO_CLIENT TTL ARRIVE_TIME PUSH_REPLY_TIME CLUSTER
		MSG_TYPE INNER_MULTI_QUEUE_OFFSET TIMER_DELAY_MS TIMER_DELAY_SEC TIMER_DELIVER_MS TIMER_ENQUEUE_MS
		TIMER_DEQUEUE_MS TIMER_ROLL_TIMES TIMER_OUT_MS TIMER_DEL_UNIQKEY TIMER_DELAY_LEVEL __BORNHOST BORN_TIMESTAMP
		DLQ_ORIGIN_TOPIC DLQ_ORIGIN_MESSAGE_ID __CRC32#`) {
		m[k] = true
	}
	return m
}()

func tooFarAhead(due int64, limit time.Duration) error {
	return Errorf(IllegalDeliveryTime, "the delivery time %s is more than the limit of %v ahead", time.UnixMilli(due).UTC().Format(time.RFC3339), limit)
}

// hasControl reports an ISO control character (U+0000-1F, U+007F-9F) or bytes
// that are not UTF-8.
func hasControl(s string) bool {
	i := 0
	for i < len(s) && s[i] >= 0x20 && s[i] < 0x7f { // nearly all there is
		i++
	}
	for _, r := range s[i:] {
		if r < 0x20 || r >= 0x7f && r <= 0x9f {
			return true
		}
	}
	return !utf8.ValidString(s[i:])
}

func checkBody(body []byte) error {
	switch {
	case len(body) == 0:
		return Errorf(BodyEmpty, "the body is empty")
	case len(body) > MaxBodyBytes:
		return Errorf(BodyTooLarge, "the body has %d bytes, the limit is %d", len(body), MaxBodyBytes)
	}
	return nil
}

// checkMessage applies the send rules of wire-contract 2.3, in its order.
func checkMessage(m *Outgoing, now int64, maxDelay time.Duration) error {
	if err := checkBody(m.Body); err != nil {
		return err
	}
	if len(m.User) > MaxPropertyCount {
		return Errorf(PropertiesTooLarge, "%d user properties, the limit is %d", len(m.User), MaxPropertyCount)
	}
	size := len(m.Tag)
	for _, p := range m.User {
		switch {
		case p.Key == "":
			return Errorf(IllegalPropertyKey, "a user property has an empty name")
		case reservedKeys[p.Key]:
			return Errorf(IllegalPropertyKey, "the user property %q is reserved", p.Key)
		case hasControl(p.Key):
			return Errorf(IllegalPropertyKey, "the name of user property %q has a control character or is not UTF-8", clip(p.Key))
		case hasControl(p.Value):
			return Errorf(IllegalPropertyKey, "the value of user property %q has a control character or is not UTF-8", clip(p.Key))
		}
		size += len(p.Key) + len(p.Value)
	}
	if m.Tag != "" {
		switch {
		case strings.TrimSpace(m.Tag) == "":
			return Errorf(IllegalTag, "the tag is only white space")
		case strings.Contains(m.Tag, "|"):
			return Errorf(IllegalTag, "the tag %q has a bar", clip(m.Tag))
		case hasControl(m.Tag):
			return Errorf(IllegalTag, "the tag %q has a control character or is not UTF-8", clip(m.Tag))
		}
	}
	for _, k := range m.Keys {
		switch {
		case strings.TrimSpace(k) == "":
			return Errorf(IllegalKey, "a key is blank")
		case hasControl(k):
			return Errorf(IllegalKey, "the key %q has a control character or is not UTF-8", clip(k))
		}
		size += len(k)
	}
	switch {
	case size > MaxPropertyBytes:
		return Errorf(PropertiesTooLarge, "user properties, tag and keys have %d bytes, the limit is %d", size, MaxPropertyBytes)
	case !m.Unnamed && strings.TrimSpace(m.ID) == "":
		return Errorf(IllegalMessageID, "the message id is blank")
	case len(m.ID) > 255 || hasControl(m.ID):
		return Errorf(IllegalMessageID, "the message id is longer than 255 bytes or has a control character")
	case m.Transaction && m.RecoverySeconds > int64(MaxRecovery/time.Second):
		return Errorf(BadRequest, "the transaction's recovery duration is %d s, the limit is %d s", m.RecoverySeconds, int64(MaxRecovery/time.Second))
	case len(m.BornHost) > 255 || hasControl(m.BornHost):
		return Errorf(BadRequest, "the born host is longer than 255 bytes or has a control character")
	case len(m.Trace) > 1024 || hasControl(m.Trace):
		return Errorf(BadRequest, "the trace context is longer than 1024 bytes or has a control character")
	case m.DueTime > now+maxDelay.Milliseconds():
		return tooFarAhead(m.DueTime, maxDelay)
	}
	if m.HasGroup {
		switch {
		case strings.TrimSpace(m.Group) == "":
			return Errorf(IllegalMessageGroup, "the message group is blank")
		case len(m.Group) > MaxMessageGroupLen:
			return Errorf(IllegalMessageGroup, "the message group has %d bytes, the limit is %d", len(m.Group), MaxMessageGroupLen)
		case hasControl(m.Group):
			return Errorf(IllegalMessageGroup, "the message group %q has a control character or is not UTF-8", clip(m.Group))
		}
	}
	return nil
}
