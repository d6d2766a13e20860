package api

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// certFiles is a certificate that is read again when its files change. Handshakes look
// at the files; connections that there are keep what they have.
type certFiles struct {
	cert, key string
	clientCA  string // "" = clients' certificates are not asked for
	log       *slog.Logger

	mu      sync.Mutex
	stamp   [3]fileStamp // of what was last read, guarded by mu
	current *tls.Config  // guarded by mu
}

type fileStamp struct {
	changed time.Time
	size    int64
}

// openCertFiles fails when the files are not good at the start.
func openCertFiles(cert, key, clientCA string, log *slog.Logger) (*certFiles, error) {
	c := &certFiles{cert: cert, key: key, clientCA: clientCA, log: log, stamp: stamps(cert, key, clientCA)}
	var err error
	c.current, err = c.read()
	return c, err
}

// config is tls.Config.GetConfigForClient. Files that are not good are told of once,
// until they change again, and what was read before stays in use.
func (c *certFiles) config(*tls.ClientHelloInfo) (*tls.Config, error) {
	now := stamps(c.cert, c.key, c.clientCA)
	c.mu.Lock()
	defer c.mu.Unlock()
	if now != c.stamp {
		c.stamp = now
		if fresh, err := c.read(); err != nil {
			c.log.Error("the changed certificate is not usable, the one before stays in use", "error", err)
		} else {
			c.current = fresh
			c.log.Info("the certificate was read again", "file", c.cert)
		}
	}
	return c.current, nil
}

func stamps(names ...string) (s [3]fileStamp) {
	for i, name := range names {
		if info, err := os.Stat(name); name != "" && err == nil {
			s[i] = fileStamp{info.ModTime(), info.Size()}
		}
	}
	return s
}

func (c *certFiles) read() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return nil, fmt.Errorf("api: certificate: %w", err)
	}
	config := serverTLS(&pair)
	if c.clientCA != "" {
		raw, err := os.ReadFile(c.clientCA)
		if err != nil {
			return nil, fmt.Errorf("api: clients' authorities: %w", err)
		}
		config.ClientCAs = x509.NewCertPool()
		if !config.ClientCAs.AppendCertsFromPEM(raw) {
			return nil, fmt.Errorf("api: clients' authorities: %s: %w", c.clientCA, errors.New("there is no certificate in it"))
		}
		config.ClientAuth = tls.VerifyClientCertIfGiven
	}
	return config, nil
}

func serverTLS(certificate *tls.Certificate) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{*certificate}, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12}
}
