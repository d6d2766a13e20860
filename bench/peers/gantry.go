package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/gantry-mq/gantry/proto/gantryv1"
)

const (
	gantryAddr = "127.0.0.1:8081"
	gantryHTTP = "127.0.0.1:8082"
	gantryPeer = "127.0.0.1:8083"
)

type gantry struct{ nodes int }

func (g *gantry) name() string { return named("gantry", g.nodes) }

func gantryBinary(c config) string { return filepath.Join(c.root, "bench/peers/target/gantry") }

func (g *gantry) prepare(ctx context.Context, c config) error {
	file, err := filepath.Abs(gantryBinary(c))
	if err != nil {
		return err
	}
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", file, "./cmd/gantry")
	build.Dir = c.root
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building gantry: %w\n%s", err, out)
	}
	return nil
}

func (g *gantry) versions(ctx context.Context, c config) (map[string]string, error) {
	git := func(args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, "git", args...)
		cmd.Dir = c.root
		out, err := cmd.Output()
		if err != nil {
			return "", fmt.Errorf("git %s: %w", strings.Join(args, " "), err)
		}
		return strings.TrimSpace(string(out)), nil
	}
	// The binary of a work tree calls itself (devel): the commit says more. Results of
	// repetitions before this one are no change of the program.
	commit, err := git("describe", "--always")
	if err != nil {
		return nil, err
	}
	changed, err := git("status", "--porcelain", "--untracked-files=no", "--", ":!docs")
	if changed != "" {
		commit += "-dirty"
	}
	return map[string]string{"gantry": commit}, err
}

type gantryServer struct {
	at       place
	binary   string
	nodes    int
	brokers  []*process
	manage   *grpc.ClientConn
	official *official
}

func (g *gantry) start(ctx context.Context, c config, at place) (_ server, err error) {
	binary, err := filepath.Abs(gantryBinary(c))
	if err != nil {
		return nil, err
	}
	s := &gantryServer{at: at, binary: binary, nodes: g.nodes, official: &official{config: c, addr: gantryAddr}}
	s.official.topics = s.topics
	if s.manage, err = grpc.NewClient(gantryAddr, grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		return nil, err
	}
	for i := range g.nodes {
		p, err := s.launch(ctx, i)
		if err != nil {
			s.stop()
			return nil, err
		}
		s.brokers = append(s.brokers, p)
	}
	return s, nil
}

// data is the directory of node i.
func (s *gantryServer) data(i int) string {
	return filepath.Join(s.at.dir, fmt.Sprint("data", i+1))
}

// launch starts node i, and waits until it serves.
func (s *gantryServer) launch(ctx context.Context, i int) (*process, error) {
	durability := map[string]string{async: "unsafe-async", sync_: "sync"}[s.at.durability]
	web := port(gantryHTTP, i)
	argv := []string{s.binary, "serve", "--data", s.data(i), "--listen", port(gantryAddr, i), "--http", web,
		"--durability", durability, "--log-level", "warn"}
	if s.nodes > 1 {
		argv = append(argv, "--node", fmt.Sprint("n", i+1), "--peer", port(gantryPeer, i))
		if i == 0 {
			argv = append(argv, "--bootstrap")
		} else {
			argv = append(argv, "--join", gantryPeer)
		}
	}
	s.at.commands.add(map[string]string{s.binary: "gantry", s.at.dir: "$DIR"}, argv...)
	p, err := launch(s.at.dir, fmt.Sprint("gantry", i+1), nil, argv...)
	if err != nil {
		return nil, err
	}
	if err := p.await(ctx, func(ctx context.Context) error { return readyAt(ctx, web) }); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

// readyAt asks a node's page whether it serves clients.
func readyAt(ctx context.Context, addr string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/readyz", nil)
	if err != nil {
		return err
	}
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return fmt.Errorf("/readyz: %s", r.Status)
	}
	return nil
}

func (s *gantryServer) processes() []*process { return s.brokers }

func (s *gantryServer) phases() []phase {
	own := &streams{config: s.official.config, topics: s.topics}
	for i := range s.brokers {
		own.addrs = append(own.addrs, port(gantryAddr, i))
	}
	if len(s.brokers) > 1 {
		topic := func(ctx context.Context, name string) error { return own.topic(ctx, name, 1, queues) }
		return threeNodePhases(clientStreams, cluster{nodes: s.brokers, topic: topic, publish: own.publish, rate: own.rate, kill: s.kill,
			spare: s.spare, data: s.data, launch: s.launch, inSync: s.inSync}, own.config)
	}
	return append(append(own.phases(), s.official.phases()...), s.official.many())
}

func (s *gantryServer) describe(ctx context.Context) ([]*gantryv1.ClusterNode, error) {
	d, err := gantryv1.NewClusterClient(s.manage).Describe(ctx, &gantryv1.DescribeClusterRequest{})
	return d.GetNodes(), err
}

// leader is the node that leads.
func (s *gantryServer) leader(ctx context.Context) (int, error) {
	nodes, err := s.describe(ctx)
	if err != nil {
		return 0, err
	}
	for _, n := range nodes {
		if n.GetLeader() {
			i, err := strconv.Atoi(strings.TrimPrefix(n.GetName(), "n"))
			return i - 1, err
		}
	}
	return 0, errors.New("no node leads")
}

// kill ends the node that leads as a power cut would.
func (s *gantryServer) kill(ctx context.Context) error {
	i, err := s.leader(ctx)
	if err != nil {
		return err
	}
	return s.brokers[i].cmd.Process.Kill()
}

// spare is a node that does not lead, and not the first, which begins a cluster when it
// has nothing and which this program asks.
func (s *gantryServer) spare(ctx context.Context) (int, error) {
	leader, err := s.leader(ctx)
	if leader == 2 {
		return 1, err
	}
	return 2, err
}

func (s *gantryServer) inSync(ctx context.Context, enough func(nodes int) bool) (bool, error) {
	nodes, err := s.describe(ctx)
	have := 0
	for _, n := range nodes {
		if len(nodes) == s.nodes && n.GetVoter() && n.GetError() == "" && n.GetLag() == 0 {
			have++
		}
	}
	return enough(have), err
}

func (s *gantryServer) stop() {
	s.official.close()
	s.manage.Close()
	stopAll(s.brokers)
}

func (s *gantryServer) topics(ctx context.Context, prefix string, count, perTopic int) error {
	m := gantryv1.NewManagementClient(s.manage)
	for _, name := range topicNames(prefix, count) {
		if _, err := m.CreateTopic(ctx, &gantryv1.CreateTopicRequest{Name: name, Queues: uint32(perTopic)}); err != nil {
			return err
		}
	}
	return nil
}
