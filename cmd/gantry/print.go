package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// clean makes text that a client chose safe for a terminal: whatever does not
// print (escape sequences, line breaks, direction marks, bytes that are not
// UTF-8) is shown as an escape. --json is the exact form.
func clean(s string) string {
	if strings.IndexFunc(s, unprintable) < 0 {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < 0x80 && unprintable(r):
			fmt.Fprintf(&b, `\x%02x`, r)
		case unprintable(r):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteString(s[i : i+n])
		}
		i += n
	}
	return b.String()
}

func unprintable(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }

// printJSON writes v and a line break. encoding/json escapes ASCII control
// characters only, and terminals obey others, so those are escaped here; they
// can stand nowhere but inside strings.
func printJSON(w io.Writer, v any) error {
	var raw strings.Builder
	e := json.NewEncoder(&raw)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return err
	}
	var b strings.Builder
	for _, r := range raw.String() {
		switch {
		case r < 0x7f || unicode.IsPrint(r):
			b.WriteRune(r)
		case r > 0xffff:
			hi, lo := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, hi, lo)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// printTable writes rows under a header, in columns. Cells are cleaned.
func printTable(w io.Writer, header []string, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, row := range append([][]string{header}, rows...) {
		for i, cell := range row {
			if i > 0 {
				io.WriteString(t, "\t")
			}
			io.WriteString(t, clean(cell))
		}
		io.WriteString(t, "\n")
	}
	return t.Flush()
}

// printList is printTable, or says that there is nothing: a header alone looks as
// if the rest were missing.
func printList(w io.Writer, nothing string, header []string, rows [][]string) error {
	if len(rows) == 0 {
		_, err := fmt.Fprintln(w, nothing)
		return err
	}
	return printTable(w, header, rows)
}

// text is a body in JSON: as it is when it is UTF-8, else in base64.
type text []byte

func (b text) MarshalJSON() ([]byte, error) {
	if utf8.Valid(b) {
		return json.Marshal(string(b))
	}
	return json.Marshal(struct {
		Base64 []byte `json:"base64"`
	}{b})
}

// when renders Unix milliseconds, "-" for none.
func when(ms int64) string {
	if ms == 0 {
		return "-"
	}
	return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z")
}

// count is a number with its noun: 1 message, 2 messages.
func count[N int | int32 | int64 | uint32 | uint64](n N, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// properties is what a message's properties are in JSON; nil when there are none.
func properties[P interface {
	GetKey() string
	GetValue() string
}](list []P) map[string]string {
	if len(list) == 0 {
		return nil
	}
	m := make(map[string]string, len(list))
	for _, p := range list {
		m[p.GetKey()] = p.GetValue()
	}
	return m
}
