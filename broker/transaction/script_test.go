package transaction_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/broker/transaction"
	"github.com/gantry-mq/gantry/commitlog/record"
)

var rewrite = flag.Bool("rewrite", false, "write what the scripts in testdata print into them")

// TestScripts runs testdata/*.txt. A script is commands, each followed by what
// it prints, indented by two spaces. Time stands still between the commands
// that move it. The commands:
//
//	now MS                       the time
//	half NAME [topic=N] [recovery=SECONDS]
//	begin NAME / cancel NAME     a decision is reserved, given up
//	commit NAME SOURCE / rollback NAME SOURCE
//	                             its record is applied; SOURCE: producer, check, operator
//	check NAME CHECKS NEXT|parked
//	move NAME POSITION           another record holds it
//	drop TOPIC
//	due [LIMIT]
//	get NAME
//	state
//	restart                      only the snapshot is left
//
// After every command the snapshot must restore to equal bytes.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := runScript(t, string(want))
			if *rewrite {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != string(want) {
				t.Errorf("%s prints\n%s\nwant\n%s", file, got, want)
			}
		})
	}
}

const immunity = 6 * time.Second

type world struct {
	t     *testing.T
	table *transaction.Table
	now   int64
	at    map[string]record.Position
	names map[record.Position]string
	busy  map[string]<-chan struct{} // of Begins that found another
	out   *strings.Builder
}

func runScript(t *testing.T, text string) string {
	var out strings.Builder
	w := &world{t: t, table: transaction.New(immunity), at: map[string]record.Position{}, names: map[record.Position]string{}, busy: map[string]<-chan struct{}{}, out: &out}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "  ") {
			continue // what it printed when it was written
		}
		out.WriteString(line)
		words := strings.Fields(line)
		if len(words) == 0 || words[0] == "#" {
			continue
		}
		w.command(words[0], words[1:])
		snapshot := w.table.AppendSnapshot(nil)
		if again := restored(t, snapshot).AppendSnapshot(nil); !bytes.Equal(again, snapshot) {
			t.Errorf("after %q: %x restores to %x", line, snapshot, again)
		}
	}
	return out.String()
}

func restored(t *testing.T, snapshot []byte) *transaction.Table {
	t.Helper()
	table := transaction.New(immunity)
	d := record.NewDecoder(snapshot)
	if table.Restore(d); d.Err() != nil {
		t.Fatalf("restore %x: %v", snapshot, d.Err())
	}
	return table
}

func (w *world) printf(format string, args ...any) { fmt.Fprintf(w.out, "  "+format+"\n", args...) }

func (w *world) command(verb string, args []string) {
	switch verb {
	case "now":
		w.now = w.number(args[0])
	case "half":
		w.half(args[0], args[1:])
	case "begin":
		h, busy, err := w.table.Begin(w.at[args[0]])
		switch {
		case err != nil:
			w.printf("%v", err)
		case busy != nil:
			w.printf("another decision is under way")
			w.busy[args[0]] = busy
		default:
			w.printf("reserved, goes to %v, %d bytes at %d", h.Key, h.Size, h.Payload)
		}
	case "cancel":
		w.table.Cancel(w.at[args[0]])
	case "commit":
		h := transaction.Half{Position: w.at[args[0]], Size: 1}
		rec := transaction.AppendCommit(nil, h, sources[args[1]])
		record.Stamp(rec, 0, w.now)
		c, err := transaction.ParseCommit(rec)
		if err != nil {
			w.t.Fatal(err)
		}
		w.table.ApplyCommit(c)
	case "rollback":
		rec := transaction.AppendRollback(nil, w.at[args[0]], sources[args[1]])
		if err := w.table.ApplyRollback(record.Command(rec), w.now); err != nil {
			w.t.Fatal(err)
		}
	case "check":
		c := transaction.Check{Position: w.at[args[0]], Checks: uint32(w.number(args[1])), Parked: args[2] == "parked"}
		if !c.Parked {
			c.Next = w.number(args[2])
		}
		if err := w.table.ApplyCheck(record.Command(transaction.AppendCheck(nil, []transaction.Check{c}))); err != nil {
			w.t.Fatal(err)
		}
	case "move":
		rec := transaction.AppendMove(nil, w.at[args[0]], record.Position(w.number(args[1])), 99)
		if err := w.table.ApplyMove(record.Command(rec)); err != nil {
			w.t.Fatal(err)
		}
	case "drop":
		w.table.DropTopic(record.TopicID(w.number(args[0])))
	case "due":
		limit := 100
		if len(args) > 0 {
			limit = int(w.number(args[0]))
		}
		due, next := w.table.Due(w.now, limit)
		for _, h := range due {
			w.printf("%s since %d, %d checks", w.names[h.Position], h.Next, h.Checks)
		}
		if next == math.MaxInt64 {
			w.printf("then nothing")
		} else {
			w.printf("then at %d", next)
		}
	case "get":
		if h, err := w.table.Get(w.at[args[0]]); err != nil {
			w.printf("%v", err)
		} else {
			w.print(h)
		}
	case "state":
		open, parked := w.table.Counts()
		w.printf("%d open, %d parked", open, parked)
		for _, h := range w.table.List(func(*transaction.Half) bool { return true }) {
			w.print(h)
		}
	case "restart":
		w.table = restored(w.t, w.table.AppendSnapshot(nil))
	default:
		w.t.Fatalf("no command %q", verb)
	}
	for name, busy := range w.busy {
		select {
		case <-busy:
			w.printf("who waits for %s may look again", name)
			delete(w.busy, name)
		default:
		}
	}
}

var sources = map[string]transaction.Source{
	"producer": transaction.FromProducer, "check": transaction.FromCheck, "operator": transaction.FromOperator,
}

func (w *world) number(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

func (w *world) print(h transaction.Half) {
	standing := fmt.Sprintf("next check at %d", h.Next)
	if h.Parked {
		standing = "parked"
	}
	w.printf("%s of message %s, goes to %v, stored %d, %d checks, %s", w.names[h.Position], h.MessageID, h.Key, h.Stored, h.Checks, standing)
}

// half applies the record of a half message; positions are in order.
func (w *world) half(name string, options []string) {
	topic, recovery := int64(7), ""
	for _, o := range options {
		switch key, value, _ := strings.Cut(o, "="); key {
		case "topic":
			topic = w.number(value)
		case "recovery":
			recovery = value
		}
	}
	pos := record.Position(1000 * (len(w.at) + 1))
	w.at[name], w.names[pos] = pos, name
	if err := w.table.ApplyHalf(pos, halfRecord(record.TopicID(topic), "id-"+name, recovery, w.now)); err != nil {
		w.t.Fatal(err)
	}
}

func halfRecord(topic record.TopicID, id, recovery string, now int64) []byte {
	m := record.Message{Kind: record.KindHalf, Topic: topic, Queue: 2, Offset: record.NoOffset, BornTime: now - 1, Body: []byte("body")}
	m.Properties = record.AppendField(nil, record.FieldMessageID, id)
	m.Properties = record.AppendField(m.Properties, record.FieldTag, "A")
	if recovery != "" {
		m.Properties = record.AppendField(m.Properties, record.FieldRecoverySec, recovery)
	}
	head := record.AppendHead(nil, &m)
	record.Stamp(head, record.NoOffset, now)
	return append(head, m.Body...)
}

// Two tables get the same records, one of them restarts all the time. Whatever
// the records say, the bytes stay equal, and each half message ends once.
func TestRestartsChangeNothing(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	a, b := transaction.New(immunity), transaction.New(immunity)
	now := int64(1_000_000)
	var known []record.Position
	for step := range 3000 {
		now += rng.Int64N(20_000_000) - 1_000_000 // the clock may go back
		pick := func() record.Position {
			if len(known) == 0 {
				return 1
			}
			return known[rng.IntN(len(known))]
		}
		var apply func(*transaction.Table) error
		switch pos := pick(); rng.IntN(7) {
		case 0, 1:
			pos := record.Position(8 * (step + 1))
			known = append(known, pos)
			rec := halfRecord(record.TopicID(rng.IntN(3)), fmt.Sprint(step), fmt.Sprint(rng.IntN(100)), now)
			apply = func(t *transaction.Table) error { return t.ApplyHalf(pos, rec) }
		case 2:
			apply = func(t *transaction.Table) error {
				t.ApplyCommit(transaction.Commit{Position: pos, Source: transaction.FromProducer, StoreTime: now})
				return nil
			}
		case 3:
			rec := record.Command(transaction.AppendRollback(nil, pos, transaction.FromOperator))
			apply = func(t *transaction.Table) error { return t.ApplyRollback(rec, now) }
		case 4:
			checks := []transaction.Check{{Position: pos, Checks: rng.Uint32N(16), Next: now + 30_000}, {Position: pick(), Checks: 15, Parked: true}}
			rec := record.Command(transaction.AppendCheck(nil, checks))
			apply = func(t *transaction.Table) error { return t.ApplyCheck(rec) }
		case 5:
			rec := record.Command(transaction.AppendMove(nil, pos, record.Position(9000+8*step), uint32(step)))
			apply = func(t *transaction.Table) error { return t.ApplyMove(rec) }
		case 6:
			topic := record.TopicID(rng.IntN(30))
			apply = func(t *transaction.Table) error { t.DropTopic(topic); return nil }
		}
		if err := errors.Join(apply(a), apply(b)); err != nil {
			t.Fatalf("step %d: %v", step, err)
		}
		b = restored(t, b.AppendSnapshot(nil))
		if x, y := a.AppendSnapshot(nil), b.AppendSnapshot(nil); !bytes.Equal(x, y) {
			t.Fatalf("step %d: %x, with restarts %x", step, x, y)
		}
		dueA, nextA := a.Due(now, 5)
		dueB, nextB := b.Due(now, 5)
		if len(dueA) != len(dueB) || len(dueA) < 5 && (nextA != nextB || fmt.Sprint(dueA) != fmt.Sprint(dueB)) {
			t.Fatalf("step %d: due %v then %d, with restarts %v then %d", step, dueA, nextA, dueB, nextB)
		}
	}
}

func TestOldDecisionsAreForgotten(t *testing.T) {
	table := transaction.New(immunity)
	decide := func(pos record.Position, now int64) {
		if err := table.ApplyHalf(pos, halfRecord(1, "m", "", now)); err != nil {
			t.Fatal(err)
		}
		table.ApplyCommit(transaction.Commit{Position: pos, Source: transaction.FromProducer, StoreTime: now})
	}
	known := func(pos record.Position) bool {
		_, err := table.Get(pos)
		var decided *transaction.DecidedError
		return errors.As(err, &decided)
	}
	decide(8, 0)
	decide(16, 1000)
	decide(24, 24*3600*1000+1)
	if known(8) || !known(16) || !known(24) {
		t.Errorf("by age: %v %v %v", known(8), known(16), known(24))
	}
	const most = 1 << 16
	for i := range 2*most + 10 {
		decide(record.Position(100+i), 24*3600*1000+2)
	}
	if known(24) || known(100+most+9) || !known(100+most+10) || !known(100+2*most+9) {
		t.Error("by number")
	}
	if n := len(table.AppendSnapshot(nil)); n > 20*most {
		t.Errorf("the snapshot has %d bytes", n)
	}
}
