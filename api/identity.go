package api

import (
	"context"
	"strings"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

// Request headers. Only the client id is required; values of the others that
// are not known here are accepted, because SDKs are known to lie in them.
const (
	headerClientID      = "x-mq-client-id"
	headerLanguage      = "x-mq-language"
	headerClientVersion = "x-mq-client-version"
	headerAuthority     = ":authority"
	headerAuthorization = "authorization"
	headerDateTime      = "x-mq-date-time"
	headerNamespace     = "x-mq-namespace"
)

func header(ctx context.Context, name string) string {
	if v := metadata.ValueFromIncomingContext(ctx, name); len(v) > 0 {
		return v[0]
	}
	return ""
}

func clientID(ctx context.Context) string { return strings.TrimSpace(header(ctx, headerClientID)) }

// remoteAddr is the client's side of the connection, localAddr ours: host:port.
func remoteAddr(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		return p.Addr.String()
	}
	return ""
}

func localAddr(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok && p.LocalAddr != nil {
		return p.LocalAddr.String()
	}
	return ""
}
