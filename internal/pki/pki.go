// Package pki makes and reads the certificates with which the nodes of a cluster
// know each other. A cluster has one certificate authority of its own; a node's
// certificate carries the node's name as a DNS name. Every DNS name in it is a name
// the node may act under, so it is for the authority to give each name once.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"
)

// MaxName is the longest name of a node, in bytes.
const MaxName = 63

// CheckName returns why name cannot be a node's: it has 1 to 63 letters, digits,
// '-', '_' and '.', the first and the last of them a letter or digit.
func CheckName(name string) error {
	if len(name) == 0 || len(name) > MaxName {
		return fmt.Errorf("node name %q: want 1 to %d characters", name, MaxName)
	}
	for i, c := range []byte(name) {
		alnum := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !alnum && (i == 0 || i == len(name)-1 || c != '-' && c != '_' && c != '.') {
			return fmt.Errorf("node name %q: want letters, digits, '-', '_' and '.', a letter or digit first and last", name)
		}
	}
	if net.ParseIP(name) != nil {
		return fmt.Errorf("node name %q: an address is no name", name)
	}
	return nil
}

// Pair is a certificate and its private key, each in PEM.
type Pair struct{ Cert, Key []byte }

// CALife is how long a certificate authority is valid. What it signs ends no later.
const CALife = 10 * 365 * 24 * time.Hour

// backdate allows for clocks that are behind the one of the issuer.
const backdate = 10 * time.Minute

// NewCA makes the certificate authority of the cluster with this name, valid from
// now (a little before) for CALife. Keys are P-256.
func NewCA(cluster string, now time.Time) (Pair, error) {
	return issue(&x509.Certificate{
		Subject:               pkix.Name{CommonName: "Gantry cluster " + cluster},
		NotAfter:              now.Add(CALife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}, now, nil)
}

// NewNode makes a certificate for the node with this name, signed by ca and valid
// for life, or as long as ca is. hosts, IP addresses or DNS names, are added for
// clients that connect to them.
func NewNode(ca Pair, node string, hosts []string, now time.Time, life time.Duration) (Pair, error) {
	if err := CheckName(node); err != nil {
		return Pair{}, err
	}
	parent, err := tls.X509KeyPair(ca.Cert, ca.Key)
	if err != nil {
		return Pair{}, fmt.Errorf("certificate authority: %w", err)
	}
	if !parent.Leaf.IsCA {
		return Pair{}, errors.New("certificate authority: this is the certificate of a node")
	}
	if !now.Before(parent.Leaf.NotAfter) {
		return Pair{}, fmt.Errorf("certificate authority: ended on %s", parent.Leaf.NotAfter.Format(time.DateOnly))
	}
	c := &x509.Certificate{
		Subject:     pkix.Name{CommonName: node},
		DNSNames:    []string{node},
		NotAfter:    now.Add(life),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if c.NotAfter.After(parent.Leaf.NotAfter) {
		c.NotAfter = parent.Leaf.NotAfter
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			c.IPAddresses = append(c.IPAddresses, ip)
		} else if err := CheckName(host); err != nil {
			return Pair{}, fmt.Errorf("host: %w", err)
		} else if !slices.Contains(c.DNSNames, host) {
			c.DNSNames = append(c.DNSNames, host)
		}
	}
	return issue(c, now, &parent)
}

// issue makes a key and signs c for it: by parent, or by itself.
func issue(c *x509.Certificate, now time.Time, parent *tls.Certificate) (Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, err
	}
	c.NotBefore = now.Add(-backdate)
	signer, signerKey := c, any(key)
	if parent != nil {
		signer, signerKey = parent.Leaf, parent.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, c, signer, key.Public(), signerKey)
	if err != nil {
		return Pair{}, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Pair{}, err
	}
	return Pair{
		Cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		Key:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}),
	}, nil
}

// Identity is what a node shows and what it trusts.
type Identity struct {
	cert tls.Certificate
	cas  *x509.CertPool
}

// NewIdentity reads PEM: the certificates of the authorities, and the node's own
// pair. It returns an error when others would refuse the node by this name: the
// certificate is not its own, is not signed by an authority, or has ended.
func NewIdentity(node string, cas []byte, own Pair) (*Identity, error) {
	cert, err := tls.X509KeyPair(own.Cert, own.Key)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(cas) {
		return nil, errors.New("no certificate of an authority")
	}
	id := &Identity{cert: cert, cas: pool}
	if err := CheckPeer(cert.Leaf, node); err != nil {
		return nil, err
	}
	between := x509.NewCertPool()
	for _, der := range cert.Certificate[1:] {
		if c, err := x509.ParseCertificate(der); err == nil {
			between.AddCert(c)
		}
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: pool, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
			return nil, err
		}
	}
	return id, nil
}

// CheckPeer returns why cert is not that of node. Names are compared exactly: no
// wildcards, no other case.
func CheckPeer(cert *x509.Certificate, node string) error {
	if !slices.Contains(cert.DNSNames, node) {
		return fmt.Errorf("the certificate is for %q, not for %q", cert.DNSNames, node)
	}
	return nil
}

// Server is the configuration of the accepting side: TLS 1.3, and whoever connects
// must show a certificate of the authorities.
func (id *Identity) Server() *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{id.cert},
		ClientCAs:    id.cas,
		ClientAuth:   tls.RequireAndVerifyClientCert,
	}
}

// Client is the configuration for connecting to node and to no other.
func (id *Identity) Client(node string) *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{id.cert},
		RootCAs:      id.cas,
		ServerName:   node,
		VerifyConnection: func(s tls.ConnectionState) error {
			return CheckPeer(s.PeerCertificates[0], node)
		},
	}
}

// ClientOfAny is the configuration for connecting to whichever node of the cluster
// is there: for one that does not know their names yet.
func (id *Identity) ClientOfAny() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		Certificates:       []tls.Certificate{id.cert},
		InsecureSkipVerify: true, // which would want a name; the authority is checked below
		VerifyConnection: func(s tls.ConnectionState) error {
			between := x509.NewCertPool()
			for _, c := range s.PeerCertificates[1:] {
				between.AddCert(c)
			}
			_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: id.cas, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
			return err
		},
	}
}
