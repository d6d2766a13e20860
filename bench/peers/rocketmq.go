package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	rocketNameServer = "127.0.0.1:9876"
	rocketBroker     = "127.0.0.1:10911"
	rocketController = "127.0.0.1:9878"
	rocketProxy      = "127.0.0.1:8081"
)

// What the distribution's scripts give each process, scaled to a machine of 24
// GiB and 2 cores: runbroker.sh has a heap of 8 GiB and 15 GiB of direct memory,
// here 4 and 7, or 2 and 2 for each of three; runserver.sh has 4 GiB for a name
// server, here 512 MiB, of which it uses a fraction. -XX:+AlwaysPreTouch is left
// out: with it idle memory would be whatever the flags say.
var (
	rocketBrokerJVM     = rocketJVM("4g", "7g")
	rocketOfThreeJVM    = rocketJVM("2g", "2g")
	rocketNameServerJVM = append([]string{"-server", "-Xms512m", "-Xmx512m", "-XX:MetaspaceSize=128m", "-XX:MaxMetaspaceSize=320m"},
		append(rocketG1, "-XX:-OmitStackTraceInFastThrow", "-XX:-UseLargePages")...)
	rocketClientJVM = []string{"-server", "-Xms1g", "-Xmx1g"}

	rocketG1 = []string{"-XX:+UseG1GC", "-XX:G1HeapRegionSize=16m", "-XX:G1ReservePercent=25",
		"-XX:InitiatingHeapOccupancyPercent=30", "-XX:SoftRefLRUPolicyMSPerMB=0"}
)

func rocketJVM(heap, direct string) []string {
	return append([]string{"-server", "-Xms" + heap, "-Xmx" + heap}, append(rocketG1, "-XX:-OmitStackTraceInFastThrow",
		"-XX:MaxDirectMemorySize="+direct, "-XX:-UseLargePages")...)
}

type rocketmq struct{ nodes int }

func (r *rocketmq) name() string { return named("rocketmq", r.nodes) }

func (r *rocketmq) prepare(ctx context.Context, c config) error {
	return maven(ctx, filepath.Join(c.root, "bench/peers/rocketmq"))
}

func (r *rocketmq) versions(ctx context.Context, c config) (map[string]string, error) {
	v, err := jarVersion(filepath.Join(c.root, "bench/peers/rocketmq/target/lib"), "rocketmq-broker")
	if err != nil {
		return nil, err
	}
	jvm, err := javaVersion(ctx)
	return map[string]string{"rocketmq": v, "java": jvm}, err
}

// rocketServer is a name server, a broker with the proxy in its process (local
// mode, which the project advises where nothing special is needed), and the load
// program over the Java client. Of three nodes, each is a broker without the proxy,
// which that client does not use.
type rocketServer struct {
	config
	at         place
	conf       string
	nameServer *process
	brokers    []*process
	master     string // address of the one of three that was seen last
	client     *remoting
	official   *official
	made       map[string]bool
	remoteSent map[string]int64 // messages in a topic that the Java client writes
	groups     int
}

func (r *rocketmq) start(ctx context.Context, c config, at place) (_ server, err error) {
	conf, err := filepath.Abs(filepath.Join(c.root, "bench/peers/rocketmq"))
	if err != nil {
		return nil, err
	}
	s := &rocketServer{config: c, at: at, conf: conf, made: map[string]bool{}, remoteSent: map[string]int64{}}
	defer func() {
		if err != nil {
			s.stop()
		}
	}()
	own := "namesrv.conf"
	if r.nodes > 1 {
		own = "controller.conf"
	}
	s.nameServer, err = s.launch("namesrv", rocketNameServerJVM, "org.apache.rocketmq.namesrv.NamesrvStartup", "-c", filepath.Join(conf, own))
	if err != nil {
		return nil, err
	}
	for i := range r.nodes {
		p, err := s.launchBroker(ctx, i, r.nodes)
		if err != nil {
			return nil, err
		}
		s.brokers = append(s.brokers, p)
	}
	if r.nodes > 1 {
		return s, s.findMaster(ctx)
	}
	s.official = &official{config: c, addr: rocketProxy, topics: s.topics}
	return s, nil
}

// store is the directory of broker i.
func (s *rocketServer) store(i int) string { return filepath.Join(s.at.dir, fmt.Sprint("store", i+1)) }

// launchBroker starts broker i of so many, and waits until it listens.
func (s *rocketServer) launchBroker(ctx context.Context, i, nodes int) (*process, error) {
	settings, err := os.ReadFile(filepath.Join(s.conf, "broker.conf"))
	if err != nil {
		return nil, err
	}
	flush := map[string]string{async: "ASYNC_FLUSH", sync_: "SYNC_FLUSH"}[s.at.durability]
	settings = fmt.Appendf(settings, "flushDiskType=%s\nstorePathRootDir=%s\n", flush, s.store(i))
	name := fmt.Sprint("broker", i+1)
	file := filepath.Join(s.at.dir, name+".conf")
	addr, jvm, class := rocketProxy, rocketBrokerJVM, "org.apache.rocketmq.proxy.ProxyStartup"
	args := []string{"-n", rocketNameServer, "-pm", "local", "-bc", file, "-pc", filepath.Join(s.conf, "rmq-proxy.json")}
	if nodes > 1 {
		addr, jvm, class = port(rocketBroker, i), rocketOfThreeJVM, "org.apache.rocketmq.broker.BrokerStartup"
		args = []string{"-n", rocketNameServer, "-c", file}
		three, err := os.ReadFile(filepath.Join(s.conf, "three.conf"))
		if err != nil {
			return nil, err
		}
		_, number, _ := strings.Cut(addr, ":")
		settings = fmt.Appendf(append(settings, three...), "listenPort=%s\n", number)
	}
	if err := os.WriteFile(file, settings, 0o644); err != nil {
		return nil, err
	}
	p, err := s.launch(name, jvm, class, args...)
	if err != nil {
		return nil, err
	}
	if err := p.await(ctx, dialable(addr)); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

func (s *rocketServer) argv(jvm []string, class string, args ...string) []string {
	argv := append([]string{java()}, jvm...)
	// Where the logs go, and what else RocketMQ keeps for a user.
	argv = append(argv, "-Duser.home="+s.at.dir, "-cp", filepath.Join(s.conf, "target/lib/*")+":"+filepath.Join(s.conf, "target/classes"), class)
	argv = append(argv, args...)
	s.at.commands.add(map[string]string{s.at.dir: "$DIR", s.conf: "bench/peers/rocketmq", java(): "java"}, argv...)
	return argv
}

func (s *rocketServer) launch(name string, jvm []string, class string, args ...string) (*process, error) {
	return launch(s.at.dir, name, []string{"ROCKETMQ_HOME=" + s.at.dir}, s.argv(jvm, class, args...)...)
}

func (s *rocketServer) processes() []*process { return append([]*process{s.nameServer}, s.brokers...) }

func (s *rocketServer) stop() {
	if s.official != nil {
		s.official.close()
	}
	if s.client != nil {
		s.client.stop()
	}
	stopAll(s.brokers)
	if s.nameServer != nil {
		s.nameServer.stop()
	}
}

func (s *rocketServer) phases() []phase {
	const single, batch, open = "Java remoting, 64 threads", "Java remoting, 32 a call, 64 threads", "Java remoting, asynchronous"
	if len(s.brokers) > 1 {
		all := threeNodePhases(batch, cluster{nodes: s.brokers, topic: s.topicOfThree, publish: s.publish, rate: s.rate, kill: s.kill,
			spare: s.spare, data: s.store, launch: s.launchOfThree, inSync: s.inSync}, s.config)
		for i := range all {
			if all[i].Shape != shapePublish3 {
				all[i].Client = open
			}
		}
		return all
	}
	var all []phase
	for _, size := range []int{1024, 100} {
		topic := fmt.Sprintf("remoting-%d", size)
		for _, p := range []struct {
			shape, client string
			batch         int
		}{{shapePublish, batch, 32}, {shapeSingle, single, 1}} {
			all = append(all, phase{Shape: p.shape, Client: p.client, Size: size,
				prepare: func(ctx context.Context) error { return s.topics(ctx, topic, 1, queues) },
				run: func(ctx context.Context, length time.Duration) (outcome, error) {
					return s.send(ctx, topic, size, p.batch, length)
				}})
		}
	}
	for _, size := range []int{1024, 100} {
		topic := fmt.Sprintf("remoting-%d", size)
		all = append(all, phase{Shape: shapeConsume, Client: "Java remoting, push consumer", Size: size, asyncOnly: true,
			prepare: func(ctx context.Context) error {
				if err := s.topics(ctx, topic, 1, queues); err != nil || s.remoteSent[topic] > 0 {
					return err
				}
				_, err := s.send(ctx, topic, size, 32, 2*s.length)
				return err
			},
			run: func(ctx context.Context, length time.Duration) (outcome, error) {
				// A new group each time reads from the first message.
				s.groups++
				return s.remote(ctx, "consume %s readers-%d %d %f", topic, s.groups, s.remoteSent[topic], length.Seconds())
			}})
	}
	all = append(all, s.official.phases()...)
	for _, shape := range []string{shapeSend, shapeThrough} {
		topic := map[string]string{shapeSend: "remoting-rate", shapeThrough: "remoting-through"}[shape]
		all = append(all, phase{Shape: shape, Client: open, Size: 1024,
			prepare: func(ctx context.Context) error { return s.topics(ctx, topic, 1, queues) },
			run: func(ctx context.Context, length time.Duration) (outcome, error) {
				return s.rate(ctx, topic, 1024, s.ratedIn(length), shape == shapeThrough)
			}})
	}
	return append(all, s.official.many())
}

func (s *rocketServer) send(ctx context.Context, topic string, size, batch int, length time.Duration) (outcome, error) {
	o, err := s.remote(ctx, "send %s %d %d 64 %f", topic, size, batch, length.Seconds())
	s.remoteSent[topic] += o.Messages
	return o, err
}

func (s *rocketServer) publish(ctx context.Context, topics []string, size int, length time.Duration) (outcome, error) {
	return s.send(ctx, topics[0], size, 32, length)
}

func (s *rocketServer) rate(ctx context.Context, topic string, size, n int, through bool) (outcome, error) {
	endToEnd := 0
	if through {
		endToEnd = 1
	}
	s.groups++
	return s.remote(ctx, "rate %s rate-%d %d %d %d %d", topic, s.groups, size, openRate, n, endToEnd)
}

// topicOfThree makes a topic, and waits until all three are in sync.
func (s *rocketServer) topicOfThree(ctx context.Context, name string) error {
	if err := s.topics(ctx, name, 1, queues); err != nil {
		return err
	}
	return s.findMaster(ctx)
}

func (s *rocketServer) findMaster(ctx context.Context) error {
	return until(ctx, func() (bool, error) {
		return s.inSync(ctx, func(nodes int) bool { return nodes == len(s.brokers) })
	})
}

// inSync notes which is the master, too.
func (s *rocketServer) inSync(ctx context.Context, enough func(nodes int) bool) (bool, error) {
	var answer struct {
		Master   string
		Replicas int
	}
	err := s.ask(ctx, &answer, "master %s", rocketController)
	s.master = answer.Master
	return enough(answer.Replicas), err
}

// masterNumber is which of the brokers was the master when it was last seen.
func (s *rocketServer) masterNumber() (int, error) {
	for i := range s.brokers {
		if port(rocketBroker, i) == s.master {
			return i, nil
		}
	}
	return 0, fmt.Errorf("the master, %s, is none of ours", s.master)
}

// kill ends the master as a power cut would.
func (s *rocketServer) kill(context.Context) error {
	i, err := s.masterNumber()
	if err != nil {
		return err
	}
	return s.brokers[i].cmd.Process.Kill()
}

// spare is a slave.
func (s *rocketServer) spare(context.Context) (int, error) {
	master, err := s.masterNumber()
	return (master + 1) % len(s.brokers), err
}

func (s *rocketServer) launchOfThree(ctx context.Context, i int) (*process, error) {
	return s.launchBroker(ctx, i, len(s.brokers))
}

func (s *rocketServer) topics(ctx context.Context, prefix string, count, perTopic int) error {
	if s.made[prefix] {
		return nil
	}
	s.made[prefix] = true
	_, err := s.remote(ctx, "topics %s %d %d", prefix, count, perTopic)
	return err
}

// remote has the Java client do one thing (see Remoting.java).
func (s *rocketServer) remote(ctx context.Context, format string, args ...any) (outcome, error) {
	var answer struct {
		outcome
		Seconds float64 `json:"seconds"`
	}
	err := s.ask(ctx, &answer, format, args...)
	if answer.Send == nil && answer.Seconds > 0 {
		answer.Rate = float64(answer.Messages) / answer.Seconds
	}
	return answer.outcome, err
}

// ask is remote for any answer.
func (s *rocketServer) ask(ctx context.Context, answer any, format string, args ...any) error {
	if s.client == nil {
		client, err := startRemoting(s.at.dir, s.argv(rocketClientJVM, "peers.Remoting", rocketNameServer))
		if err != nil {
			return err
		}
		s.client = client
	}
	return s.client.do(ctx, answer, fmt.Sprintf(format, args...))
}

// remoting is the running load program.
type remoting struct {
	process
	in  io.WriteCloser
	out *bufio.Scanner
}

func startRemoting(dir string, argv []string) (*remoting, error) {
	r := &remoting{process: process{log: filepath.Join(dir, "remoting.log"), ended: make(chan struct{})}}
	log, err := os.Create(r.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	r.cmd = command(dir, nil, argv...)
	r.cmd.Stderr = log
	in, err1 := r.cmd.StdinPipe()
	// Not StdoutPipe: waiting for the process would close it under the reader.
	read, write, err2 := os.Pipe()
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	defer write.Close()
	r.cmd.Stdout = write
	r.in, r.out = in, bufio.NewScanner(read)
	return r, r.start()
}

func (r *remoting) do(ctx context.Context, answer any, command string) error {
	defer context.AfterFunc(ctx, func() { r.cmd.Process.Kill() })()
	if _, err := fmt.Fprintln(r.in, command); err != nil {
		return fmt.Errorf("the Java client: %w\n%s", err, r.tail())
	}
	if !r.out.Scan() {
		return fmt.Errorf("the Java client ended during %q\n%s", command, r.tail())
	}
	if err := json.Unmarshal(r.out.Bytes(), answer); err != nil {
		return fmt.Errorf("the Java client answered %q: %w", r.out.Text(), err)
	}
	return ctx.Err()
}

func (r *remoting) stop() {
	r.in.Close()
	r.process.stop()
}
