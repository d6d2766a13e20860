package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

var now = time.Now()

func pair(t *testing.T) func(Pair, error) Pair {
	return func(p Pair, err error) Pair {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
}

func leaf(t *testing.T, p Pair) *x509.Certificate {
	t.Helper()
	c, err := tls.X509KeyPair(p.Cert, p.Key)
	if err != nil {
		t.Fatal(err)
	}
	return c.Leaf
}

func TestANodesCertificateCarriesItsNameAndHosts(t *testing.T) {
	ca := pair(t)(NewCA("c", now))
	c := leaf(t, pair(t)(NewNode(ca, "n1", []string{"10.0.0.1", "mq.example", "n1"}, now, time.Hour)))
	if strings.Join(c.DNSNames, " ") != "n1 mq.example" || len(c.IPAddresses) != 1 || c.IPAddresses[0].String() != "10.0.0.1" {
		t.Errorf("%q %v", c.DNSNames, c.IPAddresses)
	}
	if end := now.Add(time.Hour).Truncate(time.Second); !c.NotAfter.Equal(end) {
		t.Errorf("ends %v, want %v", c.NotAfter, end)
	}
	if c.IsCA {
		t.Error("a node can make certificates")
	}
	end := leaf(t, ca).NotAfter
	if long := leaf(t, pair(t)(NewNode(ca, "n1", nil, now, 2*CALife))); long.NotAfter.After(end) {
		t.Errorf("ends %v, after its authority, %v", long.NotAfter, end)
	}
}

func TestNoCertificateIsMadeThatNobodyWouldTake(t *testing.T) {
	ca := pair(t)(NewCA("c", now))
	other := pair(t)(NewCA("c", now))
	node := pair(t)(NewNode(ca, "n1", nil, now, time.Hour))
	for what, c := range map[string]struct {
		ca   Pair
		name string
		host string
		at   time.Time
		told string
	}{
		"no name":              {ca, "", "h", now, "node name"},
		"an address as a name": {ca, "10.0.0.1", "h", now, "address"},
		"a path as a name":     {ca, "../n1", "h", now, "letters"},
		"a separator":          {ca, "n1@h", "h", now, "letters"},
		"a wildcard":           {ca, "n1", "*.example", now, "host"},
		"too long":             {ca, strings.Repeat("n", 64), "h", now, "63"},
		"by a node":            {node, "n2", "h", now, "of a node"},
		"after the end":        {ca, "n1", "h", now.Add(CALife), "ended"},
		"key of another":       {Pair{ca.Cert, other.Key}, "n1", "h", now, "match"},
	} {
		if _, err := NewNode(c.ca, c.name, []string{c.host}, c.at, time.Hour); err == nil || !strings.Contains(err.Error(), c.told) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestAnIdentityThatOthersWouldRefuseIsAnError(t *testing.T) {
	ca, other := pair(t)(NewCA("c", now)), pair(t)(NewCA("c", now))
	good := pair(t)(NewNode(ca, "n1", nil, now, time.Hour))
	if _, err := NewIdentity("n1", ca.Cert, good); err != nil {
		t.Fatal(err)
	}
	if _, err := NewIdentity("n1", append(other.Cert, ca.Cert...), good); err != nil {
		t.Errorf("two authorities: %v", err)
	}
	for what, c := range map[string]struct {
		node string
		cas  []byte
		own  Pair
	}{
		"another name":      {"n2", ca.Cert, good},
		"other case":        {"N1", ca.Cert, good},
		"another authority": {"n1", other.Cert, good},
		"no authority":      {"n1", nil, good},
		"ended":             {"n1", ca.Cert, pair(t)(NewNode(ca, "n1", nil, now.Add(-2*time.Hour), time.Hour))},
		"not begun":         {"n1", ca.Cert, pair(t)(NewNode(ca, "n1", nil, now.Add(time.Hour), time.Hour))},
		"key of another":    {"n1", ca.Cert, Pair{good.Cert, ca.Key}},
	} {
		if _, err := NewIdentity(c.node, c.cas, c.own); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}

func TestBothSidesOfAHandshakeInsist(t *testing.T) {
	ca, foreign := pair(t)(NewCA("c", now)), pair(t)(NewCA("c", now))
	id := func(node string, ca Pair) *Identity {
		i, err := NewIdentity(node, ca.Cert, pair(t)(NewNode(ca, node, nil, now, time.Hour)))
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	n1, n2, stranger := id("n1", ca), id("n2", ca), id("n1", foreign)
	for what, c := range map[string]struct {
		server, client *tls.Config
		ok             bool
	}{
		"as dialled":             {n2.Server(), n1.Client("n2"), true},
		"another node":           {n2.Server(), n1.Client("n3"), false},
		"other case":             {n2.Server(), n1.Client("N2"), false},
		"client of another CA":   {n2.Server(), stranger.Client("n2"), false},
		"server of another CA":   {stranger.Server(), n2.Client("n1"), false},
		"whoever is there":       {n2.Server(), n1.ClientOfAny(), true},
		"any, of another CA":     {stranger.Server(), n2.ClientOfAny(), false},
		"client without a cert.": {n2.Server(), &tls.Config{InsecureSkipVerify: true}, false},
		"TLS 1.2": {n2.Server(), func() *tls.Config {
			c := n1.Client("n2")
			c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
			return c
		}(), false},
	} {
		a, b := net.Pipe()
		server, client := tls.Server(a, c.server), tls.Client(b, c.client)
		done := make(chan error, 1)
		go func() {
			_, err := server.Write([]byte("x"))
			if err != nil {
				a.Close()
			}
			done <- err
		}()
		// The client knows only by reading that it was accepted.
		_, err := io.ReadFull(client, make([]byte, 1))
		b.Close()
		if err = errors.Join(err, <-done); (err == nil) != c.ok {
			t.Errorf("%s: %v", what, err)
		}
	}
}
