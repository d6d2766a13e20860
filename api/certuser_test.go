package api

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/access"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/internal/pki"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

func TestACertificateIsTheUserOfACallWithoutASignature(t *testing.T) {
	dir := t.TempDir()
	newCA := func(name string) pki.Pair {
		ca, err := pki.NewCA(name, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return ca
	}
	ca, stranger := newCA("ours"), newCA("another")
	made := func(ca pki.Pair, name string) pki.Pair {
		p, err := pki.NewNode(ca, name, nil, time.Now(), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	server := made(ca, "server")
	o := Options{CertFile: filepath.Join(dir, "crt"), KeyFile: filepath.Join(dir, "key"), ClientCA: filepath.Join(dir, "ca")}
	for name, content := range map[string][]byte{o.CertFile: server.Cert, o.KeyFile: server.Key, o.ClientCA: ca.Cert} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f := startWithUsers(t, o)
	f.topic("orders", topic.Normal, 1)
	f.grant("shop", access.Topic, "orders", access.Pub|access.Sub)
	with := func(certificates ...tls.Certificate) v2.MessagingServiceClient {
		config := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}
		if len(certificates) > 0 { // shown whatever the server asks for
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certificates[0], nil }
		}
		return v2.NewMessagingServiceClient(f.dial(grpc.WithTransportCredentials(credentials.NewTLS(config))))
	}
	of := func(ca pki.Pair, name string) tls.Certificate {
		p := made(ca, name)
		c, err := tls.X509KeyPair(p.Cert, p.Key)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	send := &v2.SendMessageRequest{Messages: []*v2.Message{plain("orders", "1", "1")}}
	shop := with(of(ca, "shop"))
	for _, c := range []struct {
		name   string
		client v2.MessagingServiceClient
		code   v2.Code
	}{
		{"shop", shop, v2.Code_OK}, {"without permission", with(of(ca, "idle")), v2.Code_FORBIDDEN},
		{"disabled", with(of(ca, "off")), v2.Code_UNAUTHORIZED}, {"no user", with(of(ca, "nobody")), v2.Code_UNAUTHORIZED},
		{"no certificate", with(), v2.Code_UNAUTHORIZED},
	} {
		r, err := c.client.SendMessage(as("c-"+c.name), send)
		if err != nil || r.GetStatus().GetCode() != c.code {
			t.Errorf("%s: %v, %v", c.name, r, err)
		}
	}
	if r, err := with(of(stranger, "shop")).SendMessage(as("c"), send); err == nil {
		t.Errorf("a certificate of others' authorities: %v", r)
	}
	if r, err := shop.SendMessage(signedWith("shop", "not-the-secret"), send); err != nil || r.GetStatus().GetCode() != v2.Code_UNAUTHORIZED {
		t.Errorf("a wrong signature beside a good certificate: %v, %v", r, err)
	}
	if r, err := shop.SendMessage(signed("idle"), send); err != nil || r.GetStatus().GetCode() != v2.Code_FORBIDDEN {
		t.Errorf("another's signature: %v, %v", r, err)
	}
	commands, err := shop.Telemetry(as("c-stream"))
	if err != nil {
		t.Fatal(err)
	}
	if err := commands.Send(&v2.TelemetryCommand{Command: &v2.TelemetryCommand_Settings{Settings: &v2.Settings{PubSub: &v2.Settings_Publishing{
		Publishing: &v2.Publishing{Topics: []*v2.Resource{{Name: "orders"}}},
	}}}}); err != nil {
		t.Fatal(err)
	}
	if c, err := commands.Recv(); err != nil || c.GetSettings() == nil {
		t.Fatalf("%v, %v", c, err)
	}
	off := false
	if _, err := f.broker.UpdateUser(t.Context(), "shop", broker.UserChange{Enabled: &off}); err != nil {
		t.Fatal(err)
	}
	for err == nil { // it is told why, and then it ends
		_, err = commands.Recv()
	}
	if r, err := shop.SendMessage(as("c-shop"), send); err != nil || r.GetStatus().GetCode() != v2.Code_UNAUTHORIZED {
		t.Errorf("disabled: %v, %v", r, err)
	}
}
