package api

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/internal/pki"
)

func TestACertificateIsReadAgainWhenItsFilesChangeAndABrokenOneIsNot(t *testing.T) {
	dir := t.TempDir()
	at := time.Now().Add(-time.Hour)
	write := func(name string, content []byte) string {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		at = at.Add(time.Second)
		if err := os.Chtimes(file, at, at); err != nil {
			t.Fatal(err)
		}
		return file
	}
	ca, err := pki.NewCA("c", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	node := func(name string) pki.Pair {
		t.Helper()
		p, err := pki.NewNode(ca, name, nil, time.Now(), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	one := node("one")
	var faults faultLog
	c, err := openCertFiles(write("crt", one.Cert), write("key", one.Key), write("ca", ca.Cert), slog.New(&faults))
	if err != nil {
		t.Fatal(err)
	}
	serves := func(name string) {
		t.Helper()
		config, err := c.config(nil)
		if err != nil || config.Certificates[0].Leaf.VerifyHostname(name) != nil || config.ClientCAs == nil {
			t.Errorf("it is not the certificate of %s: %v", name, err)
		}
	}
	serves("one")
	two := node("two")
	write("crt", two.Cert)
	serves("one") // the key is not there yet
	serves("one")
	if faults.count() != 1 {
		t.Errorf("a broken certificate was told of %d times", faults.count())
	}
	write("key", two.Key)
	serves("two")
	write("ca", []byte("nothing"))
	serves("two")
	if faults.count() != 2 {
		t.Errorf("broken authorities were told of %d times", faults.count()-1)
	}
	if _, err := openCertFiles("/none", "/none", "", discard); err == nil {
		t.Error("a start without its files")
	}
}
