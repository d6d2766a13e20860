package transaction_test

import (
	"bytes"
	"testing"

	"github.com/gantry-mq/gantry/broker/transaction"
	"github.com/gantry-mq/gantry/commitlog/record"
)

// FuzzApply feeds records to a table. Nothing may panic, and what was taken must
// survive a snapshot.
func FuzzApply(f *testing.F) {
	half := halfRecord(7, "id", "3", 1000)
	commit := transaction.AppendCommit(nil, transaction.Half{Position: 8, Size: uint32(len(half)), Key: record.Key(7, 2)}, transaction.FromProducer)
	record.Stamp(commit, 3, 2000)
	for _, rec := range [][]byte{
		half, commit, transaction.AppendRollback(nil, 8, transaction.FromOperator),
		transaction.AppendMove(nil, 8, 4096, 100),
		transaction.AppendCheck(nil, []transaction.Check{{Position: 8, Checks: 3, Next: 4000}, {Position: 16, Parked: true}}),
	} {
		f.Add(rec)
	}
	f.Fuzz(func(t *testing.T, rec []byte) {
		if record.Verify(rec) != nil {
			return
		}
		table := transaction.New(immunity)
		if err := table.ApplyHalf(8, half); err != nil {
			t.Fatal(err)
		}
		switch record.KindOf(rec) {
		case record.KindHalf:
			if table.ApplyHalf(16, rec) != nil {
				return
			}
		case record.KindTransactionEnd:
			c, err := transaction.ParseCommit(rec)
			if err != nil {
				return
			}
			table.ApplyCommit(c)
		case record.KindTransactionRollback:
			if table.ApplyRollback(record.Command(rec), 3000) != nil {
				return
			}
		case record.KindTransactionMove:
			if table.ApplyMove(record.Command(rec)) != nil {
				return
			}
		case record.KindTransactionCheck:
			if table.ApplyCheck(record.Command(rec)) != nil {
				return
			}
		}
		snapshot := table.AppendSnapshot(nil)
		if again := restored(t, snapshot).AppendSnapshot(nil); !bytes.Equal(again, snapshot) {
			t.Fatalf("%x restores to %x", snapshot, again)
		}
	})
}

// FuzzRestore feeds snapshots to a table.
func FuzzRestore(f *testing.F) {
	table := transaction.New(immunity)
	for i := range 3 {
		if err := table.ApplyHalf(record.Position(8*i+8), halfRecord(7, "id", "3", 1000)); err != nil {
			f.Fatal(err)
		}
	}
	table.ApplyCommit(transaction.Commit{Position: 16, Source: transaction.FromCheck, StoreTime: 5000})
	f.Add(table.AppendSnapshot(nil))
	f.Fuzz(func(t *testing.T, snapshot []byte) {
		table := transaction.New(immunity)
		d := record.NewDecoder(snapshot)
		if table.Restore(d); d.Err() != nil {
			return
		}
		table.Due(1<<40, 10)
		table.ApplyCommit(transaction.Commit{Position: 8, StoreTime: 1 << 40})
		table.DropTopic(7)
		restored(t, table.AppendSnapshot(nil))
	})
}
