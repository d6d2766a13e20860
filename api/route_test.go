package api

import (
	"context"
	"testing"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/gantry-mq/gantry/broker/topic"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

func endpoint(scheme v2.AddressScheme, hosts ...string) *v2.Endpoints {
	e := &v2.Endpoints{Scheme: scheme}
	for _, h := range hosts {
		e.Addresses = append(e.Addresses, &v2.Address{Host: h, Port: 8081})
	}
	return e
}

func TestRouteNamesTheAddressTheClientCameBy(t *testing.T) {
	const (
		v4   = v2.AddressScheme_IPv4
		v6   = v2.AddressScheme_IPv6
		name = v2.AddressScheme_DOMAIN_NAME
	)
	badPort := endpoint(v4, "10.0.0.1")
	badPort.Addresses[0].Port = 0
	for _, c := range []struct {
		name      string
		asked     *v2.Endpoints
		authority string
		want      *v2.Endpoints
	}{
		{"its own configuration, unchanged", endpoint(v4, "10.0.0.1", "10.0.0.2"), "x:1", endpoint(v4, "10.0.0.1", "10.0.0.2")},
		{"a name", endpoint(name, "mq.example"), "", endpoint(name, "mq.example")},
		{"IPv6", endpoint(v6, "::1"), "", endpoint(v6, "::1")},
		{"two names are refused by clients", endpoint(name, "a", "b"), "mq:8081", endpoint(name, "mq")},
		{"scheme left out", endpoint(0, "10.0.0.1"), "mq:8081", endpoint(name, "mq")},
		{"no address", &v2.Endpoints{Scheme: v4}, "10.1.1.1:8081", endpoint(v4, "10.1.1.1")},
		{"no host", endpoint(v4, ""), "[::1]:8081", endpoint(v6, "::1")},
		{"no port", badPort, "[::ffff:10.1.1.1]:8081", endpoint(v4, "10.1.1.1")},
		{"nothing, authority a name", nil, "mq.example:8081", endpoint(name, "mq.example")},
		{"nothing, authority without port", nil, "mq.example", endpoint(v4, "127.0.0.1")},
		{"nothing at all", nil, "", endpoint(v4, "127.0.0.1")},
	} {
		ctx := peerContext()
		if c.authority != "" {
			ctx = metadata.NewIncomingContext(ctx, metadata.Pairs(":authority", c.authority))
		}
		if got := reachedBy(ctx, c.asked); !proto.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	if got := reachedBy(context.Background(), nil); !dialable(got) {
		t.Errorf("without a connection: %v", got)
	}
}

func TestAdvertisedAddressMustBeHostAndPort(t *testing.T) {
	for _, bad := range []string{"host", "host:", ":8081", "host:0", "host:65536", "host:http"} {
		if e, err := parseEndpoint(bad); err == nil {
			t.Errorf("%q: %v", bad, e)
		}
	}
}

func TestEveryTopicTypeAcceptsMessagesOfKnownTypes(t *testing.T) {
	for typ := topic.Normal; typ <= topic.Mixed; typ++ {
		if len(accepts[typ]) == 0 {
			t.Errorf("%v accepts nothing: Java throws on such a route", typ)
		}
	}
}
