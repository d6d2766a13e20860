// Package session knows the clients that are connected now: who they are, what
// they publish and subscribe to, when they were last heard of, and how to send
// them a command. It is memory only: clients say it again when they reconnect.
package session

import (
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// Role is what a client does.
type Role uint8

const (
	Producer Role = iota + 1
	PushConsumer
	SimpleConsumer
	PullConsumer
	LitePushConsumer
	LiteSimpleConsumer
)

// Client is one client object as it described itself. Values are copies.
type Client struct {
	ID            string // x-mq-client-id
	User          string // authenticated, "" when nobody is
	Role          Role
	Language      string
	Version       string
	Host          string // as the client says
	Remote        string // peer address
	Group         record.Resource
	Publishing    []record.Resource
	Subscriptions []Subscription

	// RequestTimeout is what the client gives a call that does not poll; 0 when
	// it did not say.
	RequestTimeout time.Duration

	// The registry's own, ignored by Register.
	Connected time.Time // first registered, of this life
	LastSeen  time.Time
	Streaming bool    // has an open command stream
	Refused   Refusal // the last one
}

// Refusal is a call of a client that was answered with a failure. The zero value
// is none.
type Refusal struct {
	Time               time.Time
	Method, Code, Text string
}

// Subscription is one topic a consumer takes, as it told us.
type Subscription struct {
	Topic  record.Resource
	SQL    bool
	Filter string
}
