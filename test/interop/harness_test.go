//go:build interop

package interop

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/internal/freeaddr"
	"github.com/gantry-mq/gantry/test/interop/official"
)

// patience bounds every wait for something that should happen soon.
const patience = official.Patience

var (
	workDir  string // binaries, logs and data of this run
	gantry   string // the binary under test
	programs *official.Programs
	shared   *broker
	closing  sync.WaitGroup // of brokers of one test
)

func TestMain(m *testing.M) {
	code, err := runAll(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "interop:", err)
		code = 1
	}
	os.Exit(code)
}

func runAll(m *testing.M) (int, error) {
	var err error
	if workDir, err = os.MkdirTemp("", "gantry-interop-"); err != nil {
		return 0, err
	}
	if gantry = os.Getenv("GANTRY_BIN"); gantry == "" {
		gantry = filepath.Join(workDir, "gantry")
		cmd := exec.Command("go", "build", "-o", gantry, "./cmd/gantry")
		cmd.Dir = "../.."
		if out, err := cmd.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("build gantry: %w\n%s", err, out)
		}
	}
	if programs, err = official.Prepare("clients", workDir); err != nil {
		return 0, err
	}
	if shared, err = newBroker("shared"); err != nil {
		return 0, err
	}
	if err := shared.start(); err != nil {
		return 0, err
	}
	code := m.Run()
	programs.Wait()
	closing.Wait()
	shared.kill()
	if code != 0 {
		fmt.Println("logs and data kept in", workDir)
		return code, nil
	}
	return 0, os.RemoveAll(workDir)
}

// broker is one gantry server, which can be killed and started again on the same ports and data.
type broker struct {
	name, listen, http, peer, log string
	args                          []string // of serve, besides
	cmd                           *exec.Cmd
}

func newBroker(name string) (*broker, error) {
	at, err := freeaddr.Find(2, 1)
	if err != nil {
		return nil, err
	}
	return &broker{name: name, log: filepath.Join(workDir, name+".log"), listen: at[0], http: at[1]}, nil
}

func (b *broker) start() error {
	log, err := os.OpenFile(b.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	b.cmd = exec.Command(gantry, "serve", "--data", filepath.Join(workDir, b.name+".data"), "--listen", b.listen, "--http", b.http)
	b.cmd.Args = append(b.cmd.Args, b.args...)
	b.cmd.Stdout, b.cmd.Stderr = log, log
	if err := b.cmd.Start(); err != nil {
		return err
	}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if resp, err := http.Get("http://" + b.http + "/readyz"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
	}
	b.kill()
	return fmt.Errorf("%s did not become ready; see %s", b.name, b.log)
}

// kill ends the server with SIGKILL.
func (b *broker) kill() {
	b.cmd.Process.Kill()
	b.cmd.Wait()
}

// admin runs an operator command against the server.
func (b *broker) admin(t *testing.T, args ...string) {
	t.Helper()
	out, err := exec.Command(gantry, append(args, "--server", b.listen)...).CombinedOutput()
	if err != nil {
		t.Fatalf("gantry %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

var languages = official.Languages

type (
	role    = official.Role
	message = official.Message
	event   = official.Event
	client  = official.Client
)

func start(t *testing.T, b *broker, language string, roles ...role) *client {
	t.Helper()
	return programs.Start(t, b.listen, language, roles...)
}

// produce sends the messages with one client and returns their ids, in order.
func produce(t *testing.T, b *broker, language, topic string, messages []message) []string {
	t.Helper()
	c := start(t, b, language, role{Name: "produce", Kind: "produce", Topic: topic, Messages: messages})
	return c.Produced(t, "produce", len(messages))
}
