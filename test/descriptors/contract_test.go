package descriptors

import (
	"bytes"
	_ "embed"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	_ "github.com/gantry-mq/gantry/proto/rocketmqv2"
	"github.com/gantry-mq/gantry/test/descriptors/dump"
)

// newer lists what our contract has and the official Go client does not have
// yet, because it was built from an older edition. A line leaves this file when
// the client catches up; one is added only after looking it up in the published
// contract.
//
//go:embed testdata/newer.txt
var newer string

func TestContractIsTheOfficialClientsPlusTheListedAdditions(t *testing.T) {
	var ours bytes.Buffer
	if err := dump.Package(&ours, "apache.rocketmq.v2"); err != nil {
		t.Fatal(err)
	}
	got, theirs, listed := split(ours.String()), split(official(t)), split(newer)
	for _, line := range theirs {
		if !slices.Contains(got, line) {
			t.Errorf("the official client has, and ours has not:\n\t%s", line)
		}
		if slices.Contains(listed, line) {
			t.Errorf("the official client has by now, and is still listed as newer:\n\t%s", line)
		}
	}
	for _, line := range listed {
		if !slices.Contains(got, line) {
			t.Errorf("is listed as newer, and ours has not:\n\t%s", line)
		}
	}
	for _, line := range got {
		if !slices.Contains(theirs, line) && !slices.Contains(listed, line) {
			t.Errorf("only ours has, and is not listed as newer:\n\t%s", line)
		}
	}
}

// official returns the dump of the official client's package.
func official(t *testing.T) string {
	// The go command does not see what the program below depends on; a look at
	// go.mod makes a change of the client's version void a cached result.
	if _, err := os.Stat("go.mod"); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "run", "./official")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go run ./official: %v", err)
	}
	return string(out)
}

func split(text string) []string { return strings.Split(strings.TrimSuffix(text, "\n"), "\n") }
