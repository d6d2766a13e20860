//go:build interop

package interop

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const mib = 1 << 20

// corpus is what one language sends in the round-trip test. Every message is known by its property "case", which names the producer too.
func corpus(t *testing.T, language string) []message {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	many := map[string]string{}
	for i := range 100 {
		many[fmt.Sprintf("p%03d", i)] = strings.Repeat("v", i+1)
	}
	largest := 4*mib - 64<<10
	if language == "go" {
		largest = 2*mib - 1<<10
	}
	messages := []message{
		{Body: "plain", Tag: "A", Keys: []string{"k-plain"}},
		{Body: "no tag, no keys"},
		{Body: "  spaces\tand\r\nlines  ", Tag: "a tag", Keys: []string{"one", "two", "three"}},
		{Body: "消息体 ✓ 🚀 \u200d e\u0301", Tag: "标签", Keys: []string{"键一", "ключ", "🔑"}, Properties: map[string]string{"属性": "值", "emoji": "🎉👩‍👩‍👧", "ascii": "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"}},
		{BodyFile: bodyFile(t, all), Tag: "*"},
		{BodyFile: bodyFile(t, []byte{0}), Tag: "B"},
		{Body: "many properties", Properties: many},
		{Body: "large properties", Tag: strings.Repeat("t", 1000), Keys: []string{strings.Repeat("k", 4000)}, Properties: map[string]string{"large": strings.Repeat("x", 10000)}},
		{BodyFile: bodyFile(t, random(64<<10)), Tag: "A"},
		{BodyFile: bodyFile(t, random(mib)), Tag: "A", Keys: []string{"mega"}},
		{BodyFile: bodyFile(t, random(largest)), Tag: "B", Keys: []string{"largest"}, Properties: map[string]string{"size": fmt.Sprint(largest)}},
	}
	if language == "go" || language == "node" {
		messages = append(messages, message{Body: "an empty value", Properties: map[string]string{"empty": ""}})
	}
	for i := range messages {
		messages[i] = messages[i].Known(fmt.Sprintf("%s-%d", language, i))
	}
	return messages
}

var generator = rand.NewChaCha8([32]byte([]byte("interop bodies are reproducible.")))

func random(n int) []byte {
	b := make([]byte, n)
	generator.Read(b)
	return b
}

func bodyFile(t *testing.T, body []byte) string {
	t.Helper()
	sum := sha256.Sum256(body)
	name := filepath.Join(workDir, hex.EncodeToString(sum[:])+".body")
	if err := os.WriteFile(name, body, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func bodyOf(t *testing.T, m message) []byte {
	t.Helper()
	if m.BodyFile == "" {
		return []byte(m.Body)
	}
	body, err := os.ReadFile(m.BodyFile)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// differences says in words how a delivery differs from what was sent; the order of keys is not kept by every client.
func differences(t *testing.T, e event, m message) []string {
	t.Helper()
	var out []string
	differ := func(what string, got, want any) {
		if g, w := fmt.Sprintf("%q", got), fmt.Sprintf("%q", want); g != w {
			out = append(out, fmt.Sprintf("%s: got %.200s, want %.200s", what, g, w))
		}
	}
	body := bodyOf(t, m)
	sum := sha256.Sum256(body)
	differ("body size", fmt.Sprint(e.Size), fmt.Sprint(len(body)))
	differ("body", e.SHA256, hex.EncodeToString(sum[:]))
	differ("tag", optional(e.Tag), optional(pointer(m.Tag)))
	differ("message group", optional(e.Group), optional(pointer(m.Group)))
	differ("keys", slices.Sorted(slices.Values(e.Keys)), slices.Sorted(slices.Values(m.Keys)))
	differ("properties", e.Properties, m.Properties)
	return out
}

func pointer(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func optional(s *string) string {
	if s == nil {
		return "(absent)"
	}
	return "=" + *s
}
