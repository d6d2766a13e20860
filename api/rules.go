package api

import (
	"strings"

	"github.com/gantry-mq/gantry/broker/access"
	"github.com/gantry-mq/gantry/commitlog/record"
	gantryv1 "github.com/gantry-mq/gantry/proto/gantryv1"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
	"github.com/gantry-mq/gantry/proto/stream"
)

// rule says who may call a method.
type rule struct {
	// needs asks for what a request takes. nil: it is enough to be known.
	needs func(*asking, any)
	// open methods are for everybody, unknown too.
	open bool
	// anonymous handlers do not want to know who calls, unless there are quotas: those of
	// each message.
	anonymous bool
	// operator's calls that change something are written to the log.
	operator bool
	// verified calls read what others may have changed: they are answered when this node
	// has asked whether it still leads. A process that was stopped goes on where it was,
	// and knows nothing of the leader after it.
	verified bool
	// tables are changed by these calls: those that all shards of a cluster have.
	tables bool
}

// rules has every method of every service: a method without a rule is refused, and
// TestEveryMethodHasARule finds it first. The reference's own table is the wire
// contract's section 1.3; here handles need the topic too, and every message counts.
var rules = map[string]rule{}

func init() {
	const (
		pub, sub, get          = access.Pub, access.Sub, access.Get
		create, update, remove = access.Create, access.Update, access.Delete
	)
	both := func(a *asking, group, topic *v2.Resource) {
		a.topic(resource(topic), sub)
		a.group(resource(group), sub)
	}
	messaging := func(name string, r rule) { rules[messagingPrefix+name] = r }
	messaging("SendMessage", rule{anonymous: true, needs: func(a *asking, req any) {
		var last record.Resource
		for i := range req.(*sendRequest).messages {
			if t := req.(*sendRequest).messages[i].Topic; i == 0 || t != last {
				a.topic(t, pub)
				last = t
			}
		}
	}})
	messaging("AckMessage", rule{anonymous: true, needs: func(a *asking, req any) {
		r := req.(*ackRequest)
		a.topic(r.topic, sub)
		a.group(r.group, sub)
	}})
	messaging("ReceiveMessage", rule{needs: func(a *asking, req any) {
		r := req.(*receiveRequest)
		a.topic(r.topic, sub)
		a.group(r.group, sub)
		a.self()
	}})
	messaging("QueryRoute", needs(func(a *asking, r *v2.QueryRouteRequest) {
		a.need(need{object: access.Object{Type: access.Topic, Resource: resource(r.GetTopic())}, action: pub, or: sub})
	}))
	messaging("Heartbeat", needs(func(a *asking, r *v2.HeartbeatRequest) {
		a.self()
		a.group(resource(r.GetGroup()), sub)
	}))
	messaging("NotifyClientTermination", needs(func(a *asking, r *v2.NotifyClientTerminationRequest) {
		a.self()
		a.group(resource(r.GetGroup()), sub)
	}))
	messaging("Telemetry", needs(func(a *asking, r *v2.TelemetryCommand) {
		a.self()
		for _, t := range r.GetSettings().GetPublishing().GetTopics() {
			a.topic(resource(t), pub)
		}
		s := r.GetSettings().GetSubscription()
		a.group(resource(s.GetGroup()), sub)
		for _, e := range s.GetSubscriptions() {
			a.topic(resource(e.GetTopic()), sub)
		}
	}))
	messaging("QueryAssignment", needs(func(a *asking, r *v2.QueryAssignmentRequest) { both(a, r.GetGroup(), r.GetTopic()) }))
	messaging("ForwardMessageToDeadLetterQueue", needs(func(a *asking, r *v2.ForwardMessageToDeadLetterQueueRequest) {
		both(a, r.GetGroup(), r.GetTopic())
	}))
	messaging("ChangeInvisibleDuration", needs(func(a *asking, r *v2.ChangeInvisibleDurationRequest) { both(a, r.GetGroup(), r.GetTopic()) }))
	messaging("SyncLiteSubscription", needs(func(a *asking, r *v2.SyncLiteSubscriptionRequest) {
		a.self()
		both(a, r.GetGroup(), r.GetTopic())
	}))
	messaging("PullMessage", needs(func(a *asking, r *v2.PullMessageRequest) { both(a, r.GetGroup(), r.GetMessageQueue().GetTopic()) }))
	messaging("UpdateOffset", needs(func(a *asking, r *v2.UpdateOffsetRequest) { both(a, r.GetGroup(), r.GetMessageQueue().GetTopic()) }))
	messaging("GetOffset", verified(needs(func(a *asking, r *v2.GetOffsetRequest) {
		both(a, r.GetGroup(), r.GetMessageQueue().GetTopic())
	})))
	messaging("QueryOffset", verified(needs(func(a *asking, r *v2.QueryOffsetRequest) {
		a.topic(resource(r.GetMessageQueue().GetTopic()), sub)
	})))
	messaging("EndTransaction", needs(func(a *asking, r *v2.EndTransactionRequest) { a.topic(resource(r.GetTopic()), pub) }))
	messaging("RecallMessage", needs(func(a *asking, r *v2.RecallMessageRequest) { a.topic(resource(r.GetTopic()), pub) }))

	// What follows open and subscribe is checked by the handlers, which know the topic.
	rules[gantryv1.Streams_Publish_FullMethodName] = rule{needs: func(a *asking, req any) {
		switch r := req.(type) {
		case *stream.Batch:
			a.topic(record.Resource{Namespace: r.Namespace, Name: r.Topic}, pub)
		case *gantryv1.StreamResource:
			if r.GetName() != "" { // a stream may be opened without
				a.topic(streamResource(r), pub)
			}
		}
	}}
	rules[gantryv1.Streams_Consume_FullMethodName] = needs(func(a *asking, r *gantryv1.Subscribe) {
		a.topic(streamResource(r.GetTopic()), sub)
		a.group(streamResource(r.GetGroup()), sub)
	})

	operator := func(name string, r rule) {
		r.operator = true
		r.verified = !strings.HasPrefix(name, "Cluster/") // which may end the leadership
		rules["/gantry.v1."+name] = r
	}
	known := rule{}
	operator("Management/ServerInfo", known)
	operator("Management/CreateTopic", named(access.Topic, create))
	operator("Management/DeleteTopic", named(access.Topic, remove))
	operator("Management/DescribeTopic", named(access.Topic, get))
	operator("Management/ListTopics", known) // of those that the caller may list
	operator("Management/CreateGroup", named(access.Group, create))
	operator("Management/DeleteGroup", named(access.Group, remove))
	operator("Management/DescribeGroup", named(access.Group, get))
	operator("Management/ListGroups", known)
	operator("Management/ListTransactions", needs(func(a *asking, r *gantryv1.ListTransactionsRequest) {
		a.topicOrCluster(r.GetNamespace(), r.GetTopic(), get)
	}))
	operator("Management/DescribeTransaction", needs(func(a *asking, r *gantryv1.DescribeTransactionRequest) {
		a.transaction(r.GetId(), get)
		a.transaction(r.GetId(), sub)
	}))
	operator("Management/SettleTransaction", needs(func(a *asking, r *gantryv1.SettleTransactionRequest) { a.transaction(r.GetId(), update) }))
	operator("Management/ListTimers", ofTopic(get))
	operator("Management/CancelTimer", ofTopic(update))
	operator("Management/RescheduleTimer", ofTopic(update))
	operator("TopicOps/Update", named(access.Topic, update))
	operator("TopicOps/Purge", named(access.Topic, remove))
	operator("TopicOps/DeleteMessage", ofTopic(remove))
	operator("Messages/Get", ofTopic(get, sub)) // bodies are for those who may consume them
	operator("Messages/Query", needs(func(a *asking, r *gantryv1.QueryMessagesRequest) {
		a.topic(record.Resource{Namespace: r.GetNamespace(), Name: r.GetTopic()}, get)
		if r.GetGroup() != "" {
			a.group(record.Resource{Namespace: r.GetNamespace(), Name: r.GetGroup()}, get)
		}
	}))
	operator("Filters/Test", ofTopic(get, sub))
	operator("GroupOps/Update", named(access.Group, update))
	operator("GroupOps/Blocked", ofGroup(get))
	operator("GroupOps/Skip", ofGroup(update))
	operator("GroupOps/ResetOffset", ofGroup(update))
	operator("GroupOps/Replay", ofGroup(update))
	operator("GroupOps/CancelReplay", ofGroup(update))
	operator("DeadLetters/List", ofGroup(get))
	operator("DeadLetters/Show", ofGroup(get, sub))
	operator("DeadLetters/Export", ofGroup(get, sub))
	operator("DeadLetters/Discard", ofGroup(remove))
	operator("DeadLetters/Redrive", needs(func(a *asking, r *gantryv1.RedriveRequest) {
		ofGroup(update).needs(a, r)
		if r.GetTargetTopic() != "" {
			a.topic(record.Resource{Namespace: r.GetNamespace(), Name: r.GetTargetTopic()}, pub)
		}
	}))
	operator("Observe/Overview", ofCluster(get))
	operator("Observe/History", ofCluster(get))
	operator("Observe/Topics", known) // of those that the caller may list, as are groups
	operator("Observe/Groups", known)
	operator("Observe/Clients", needs(func(a *asking, r *gantryv1.ClientsRequest) {
		if r.GetGroup() == "" {
			a.cluster(get)
			return
		}
		a.group(record.Resource{Namespace: r.GetNamespace(), Name: r.GetGroup()}, get)
	}))
	operator("Observe/Why", needs(func(a *asking, r *gantryv1.WhyRequest) { a.topicOrCluster(r.GetNamespace(), r.GetTopic(), get) }))
	operator("Cluster/Describe", ofCluster(get))
	operator("Cluster/Digest", ofCluster(get))
	operator("Cluster/Remove", ofCluster(remove))
	operator("Cluster/Promote", ofCluster(update))
	operator("Cluster/Transfer", ofCluster(update))
	operator("Logging/ListLevels", ofCluster(get))
	operator("Logging/SetLevel", ofCluster(update))
	for _, m := range []string{"CreateUser", "UpdateUser", "DeleteUser", "ResealUsers", "ListUsers", "Grant", "Revoke"} {
		operator("Access/"+m, rule{needs: func(a *asking, _ any) { a.super() }})
	}
	operator("Quotas/Set", ofCluster(update))
	operator("Quotas/Unset", ofCluster(update))
	operator("Quotas/List", ofCluster(get))
	operator("Namespaces/List", known) // those with something that the caller may list
	operator("Access/DescribeUser", aboutSelf((*gantryv1.DescribeUserRequest).GetName))
	operator("Access/ListPolicies", aboutSelf((*gantryv1.ListPoliciesRequest).GetUser))
	operator("Access/Test", aboutSelf((*gantryv1.TestAccessRequest).GetUser))

	for _, m := range []string{
		"Management/CreateTopic", "Management/DeleteTopic", "TopicOps/Update",
		"Management/CreateGroup", "Management/DeleteGroup", "GroupOps/Update",
		"Access/CreateUser", "Access/UpdateUser", "Access/DeleteUser", "Access/ResealUsers", "Access/Grant", "Access/Revoke",
		"Quotas/Set", "Quotas/Unset",
	} {
		r := rules["/gantry.v1."+m]
		r.tables = true
		rules["/gantry.v1."+m] = r
	}

	contract := func(name string, r rule) {
		r.operator, r.verified = true, true
		rules["/apache.rocketmq.v2.Admin/"+name] = r
	}
	topic := func(a *asking, r interface{ GetTopic() *v2.Resource }, action access.Actions) {
		a.topic(resource(r.GetTopic()), action)
	}
	group := func(a *asking, r interface{ GetGroup() *v2.Resource }, action access.Actions) {
		a.need(need{object: access.Object{Type: access.Group, Resource: resource(r.GetGroup())}, action: action})
	}
	subscription := func(a *asking, r interface {
		GetTopic() *v2.Resource
		GetGroup() *v2.Resource
	}) {
		if r.GetTopic() == nil && r.GetGroup() == nil {
			a.cluster(get)
			return
		}
		if r.GetTopic() != nil {
			topic(a, r, get)
		}
		if r.GetGroup() != nil {
			group(a, r, get)
		}
	}
	contract("ChangeLogLevel", ofCluster(update))
	contract("GetProxyRuntimeStats", ofCluster(get))
	contract("DescribeTopicStatus", needs(func(a *asking, r *v2.DescribeTopicStatusRequest) { topic(a, r, get) }))
	contract("GetTopicRoute", needs(func(a *asking, r *v2.GetTopicRouteRequest) { topic(a, r, get) }))
	contract("ListSubscription", needs(func(a *asking, r *v2.ListSubscriptionRequest) { subscription(a, r) }))
	contract("DescribeSubscription", needs(func(a *asking, r *v2.DescribeSubscriptionRequest) { subscription(a, r) }))
	contract("DeleteSubscription", needs(func(a *asking, r *v2.DeleteSubscriptionRequest) { group(a, r, update) }))
	contract("DescribeGroupAccumulation", needs(func(a *asking, r *v2.DescribeGroupAccumulationRequest) { group(a, r, get) }))
	contract("QueryTimeSpan", needs(func(a *asking, r *v2.QueryTimeSpanRequest) { group(a, r, get) }))
	contract("ResetGroupOffset", needs(func(a *asking, r *v2.ResetGroupOffsetRequest) { group(a, r, update) }))
	contract("ListConsumerConnection", needs(func(a *asking, r *v2.ListConsumerConnectionRequest) { group(a, r, get) }))
	contract("PrintThreadStackTrace", needs(func(a *asking, r *v2.PrintThreadStackTraceRequest) {
		group(a, r, get)
		a.client(r.GetClientId(), get)
	}))
	contract("GetConsumerRunningInfo", needs(func(a *asking, r *v2.GetConsumerRunningInfoRequest) {
		group(a, r, get)
		a.client(r.GetClientId(), get)
	}))
	contract("VerifyMessage", needs(func(a *asking, r *v2.VerifyMessageRequest) {
		group(a, r, update)
		a.client(r.GetClientId(), update)
		topic(a, r, sub)
	}))
	contract("QueryMessage", needs(func(a *asking, r *v2.ListMessageRequest) {
		topic(a, r, get)
		topic(a, r, sub)
	}))
	contract("AdminSendMessage", needs(func(a *asking, r *v2.AdminSendMessageRequest) { topic(a, r, pub) }))

	// Probes have no credentials. The services' descriptions are public, but who reads
	// them from the server is a client.
	for _, m := range []string{"Check", "List", "Watch"} {
		rules["/grpc.health.v1.Health/"+m] = rule{open: true}
	}
	for _, v := range []string{"v1", "v1alpha"} {
		rules["/grpc.reflection."+v+".ServerReflection/ServerReflectionInfo"] = known
	}
}

// needs is a rule about requests of one type.
func needs[R any](f func(*asking, R)) rule {
	return rule{needs: func(a *asking, req any) { f(a, req.(R)) }}
}

func verified(r rule) rule {
	r.verified = true
	return r
}

// The resource of a request is in its name, topic or group.
type (
	requestOfName interface {
		GetNamespace() string
		GetName() string
	}
	requestOfTopic interface {
		GetNamespace() string
		GetTopic() string
	}
	requestOfGroup interface {
		GetNamespace() string
		GetGroup() string
	}
)

func named(t access.Type, actions ...access.Actions) rule {
	return needs(func(a *asking, r requestOfName) {
		for _, action := range actions {
			a.need(need{object: access.Object{Type: t, Resource: record.Resource{Namespace: r.GetNamespace(), Name: r.GetName()}}, action: action})
		}
	})
}

func ofTopic(actions ...access.Actions) rule {
	return needs(func(a *asking, r requestOfTopic) {
		for _, action := range actions {
			a.topic(record.Resource{Namespace: r.GetNamespace(), Name: r.GetTopic()}, action)
		}
	})
}

func ofGroup(actions ...access.Actions) rule {
	return needs(func(a *asking, r requestOfGroup) {
		for _, action := range actions {
			a.need(need{object: access.Object{Type: access.Group, Resource: record.Resource{Namespace: r.GetNamespace(), Name: r.GetGroup()}}, action: action})
		}
	})
}

func ofCluster(action access.Actions) rule {
	return rule{needs: func(a *asking, _ any) { a.cluster(action) }}
}

// aboutSelf is for super users, and for everybody about themselves.
func aboutSelf[R any](user func(R) string) rule {
	return needs(func(a *asking, r R) {
		if name := user(r); name != a.who.Name() && (name != "" || a.listsAll(r)) {
			a.super()
		}
	})
}

// listsAll reports a request in which no name means all users, not the caller.
func (a *asking) listsAll(req any) bool {
	_, all := req.(*gantryv1.ListPoliciesRequest)
	return all
}

// client asks about the group that a client is really of.
func (a *asking) client(id string, action access.Actions) {
	if c, ok := a.gate.broker.Sessions().Get(id); ok {
		a.group(c.Group, action)
	}
}

// topicOrCluster asks about a topic, or about everything if none is named.
func (a *asking) topicOrCluster(namespace, name string, action access.Actions) {
	if name == "" {
		a.cluster(action)
		return
	}
	a.topic(record.Resource{Namespace: namespace, Name: name}, action)
}

// transaction asks about the topic of a half message; of one that there is not, about
// the cluster, so that nobody learns more than that.
func (a *asking) transaction(id string, action access.Actions) {
	tx, err := a.gate.broker.Transaction(a.ctx, id)
	if err != nil {
		a.cluster(action)
		return
	}
	a.topic(tx.Topic, action)
}
