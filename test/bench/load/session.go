package load

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"

	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

const (
	requestTimeout = 30 * time.Second
	heartbeatEvery = 10 * time.Second // what official clients do
	pollTimeout    = 5 * time.Second  // the least that RocketMQ's proxy takes
)

// header is what official clients send with each call. The name of the client
// must be its own: settings are kept by it.
func (l *Load) header(role v2.ClientType, i int) metadata.MD {
	return metadata.Pairs("x-mq-client-id", fmt.Sprintf("%s-%d@%d", l.Group, role, i),
		"x-mq-language", "GO", "x-mq-client-version", "5.1.4", "x-mq-protocol", "v2")
}

// askRoute fails where a topic is unknown, and keeps the broker's name: receives
// carry it.
func (l *Load) askRoute(ctx context.Context) error {
	host, port, err := net.SplitHostPort(l.Addr)
	if err != nil {
		return err
	}
	number, err := strconv.ParseInt(port, 10, 32)
	if err != nil {
		return err
	}
	ctx = metadata.NewOutgoingContext(ctx, l.header(v2.ClientType_PRODUCER, 0))
	for _, topic := range l.Topics {
		r, err := v2.NewMessagingServiceClient(l.conns[0]).QueryRoute(ctx, &v2.QueryRouteRequest{
			Topic: &v2.Resource{Name: topic},
			Endpoints: &v2.Endpoints{Scheme: v2.AddressScheme_IPv4,
				Addresses: []*v2.Address{{Host: host, Port: int32(number)}}},
		})
		if err != nil {
			return err
		}
		if r.GetStatus().GetCode() != v2.Code_OK || len(r.GetMessageQueues()) == 0 {
			return fmt.Errorf("route of topic %s: %v", topic, r.GetStatus())
		}
		l.broker = r.GetMessageQueues()[0].GetBroker().GetName()
	}
	return nil
}

// register sends the settings of one client, waits for the answer, and keeps the
// client alive until live ends.
func (l *Load) register(live context.Context, client v2.MessagingServiceClient, role v2.ClientType, i int) error {
	ctx := metadata.NewOutgoingContext(live, l.header(role, i))
	settings := &v2.Settings{
		ClientType:     role.Enum(),
		RequestTimeout: durationpb.New(requestTimeout),
		UserAgent:      &v2.UA{Language: v2.Language_GOLANG, Version: "5.1.4", Hostname: "bench"},
	}
	topics := make([]*v2.Resource, len(l.Topics))
	for i, name := range l.Topics {
		topics[i] = &v2.Resource{Name: name}
	}
	beat := &v2.HeartbeatRequest{ClientType: role}
	if role == v2.ClientType_PRODUCER {
		settings.PubSub = &v2.Settings_Publishing{Publishing: &v2.Publishing{Topics: topics}}
	} else {
		beat.Group = &v2.Resource{Name: l.Group}
		sub := &v2.Subscription{Group: beat.Group, LongPollingTimeout: durationpb.New(pollTimeout)}
		for _, t := range topics {
			sub.Subscriptions = append(sub.Subscriptions, &v2.SubscriptionEntry{Topic: t, Expression: everything})
		}
		settings.PubSub = &v2.Settings_Subscription{Subscription: sub}
	}
	stream, err := client.Telemetry(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&v2.TelemetryCommand{Command: &v2.TelemetryCommand_Settings{Settings: settings}}); err != nil {
		return err
	}
	if _, err := stream.Recv(); err != nil {
		return err
	}
	if _, err := client.Heartbeat(ctx, beat); err != nil {
		return err
	}
	l.sessions.Go(func() {
		for {
			if _, err := stream.Recv(); err != nil {
				return // a server that ended fails the calls, which say so better
			}
		}
	})
	l.sessions.Go(func() {
		tick := time.NewTicker(heartbeatEvery)
		defer tick.Stop()
		for {
			select {
			case <-live.Done():
				return
			case <-tick.C:
				client.Heartbeat(ctx, beat)
			}
		}
	})
	return nil
}
