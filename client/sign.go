package client

import (
	"context"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/gantry-mq/gantry/broker/access"
)

// signer signs calls as the official clients of RocketMQ do.
type signer struct{ user, secret string }

// Credentials sign each call on a gRPC connection as a user of the broker. They do
// without TLS, because the broker does.
func Credentials(user, secret string) credentials.PerRPCCredentials { return signer{user, secret} }

func (s signer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	authorization, date := access.Sign(s.user, s.secret, time.Now())
	return map[string]string{"authorization": authorization, "x-mq-date-time": date}, nil
}

func (signer) RequireTransportSecurity() bool { return false }

// sign puts a signature where a call without HTTP/2 has it.
func (c *Client) sign(authorization, date *string) {
	if c.opts.User != "" {
		*authorization, *date = access.Sign(c.opts.User, c.opts.Secret, time.Now())
	}
}
