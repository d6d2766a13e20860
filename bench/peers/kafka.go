package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	kafkaAddr       = "127.0.0.1:9092"
	kafkaController = "127.0.0.1:9093"
)

// kafkaOfThree is what its project advises for three nodes: three replicas of
// everything, two of which must have what is acknowledged.
const kafkaOfThree = `min.insync.replicas=2
default.replication.factor=3
offsets.topic.replication.factor=3
transaction.state.log.replication.factor=3
transaction.state.log.min.isr=2
share.coordinator.state.topic.replication.factor=3
share.coordinator.state.topic.min.isr=2
`

// What the distribution's scripts give the broker and the performance tools. 1
// GiB is their own choice for a server; the rest of the machine is page cache,
// which is where Kafka wants it.
var (
	kafkaServerJVM = append([]string{"-Xmx1G", "-Xms1G"}, kafkaJVM...)
	kafkaToolJVM   = append([]string{"-Xmx512M"}, kafkaJVM...)

	kafkaJVM = []string{"-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35",
		"-XX:+ExplicitGCInvokesConcurrent", "-Djava.awt.headless=true"}
)

// Producer settings for throughput: batch.size and linger.ms from the range that
// is generally advised (100,000 to 200,000; 10 to 100 ms). acks=all is the
// default, and with one replica the same promise as acks=1. Nothing is
// compressed, by nobody.
var kafkaProducer = []string{"acks=all", "batch.size=200000", "linger.ms=10", "buffer.memory=67108864"}

type kafka struct{ nodes int }

func (k *kafka) name() string { return named("kafka", k.nodes) }

func (k *kafka) prepare(ctx context.Context, c config) error {
	return maven(ctx, filepath.Join(c.root, "bench/peers/kafka"))
}

func (k *kafka) versions(ctx context.Context, c config) (map[string]string, error) {
	v, err := jarVersion(filepath.Join(c.root, "bench/peers/kafka/target/lib"), "kafka-clients")
	if err != nil {
		return nil, err
	}
	jvm, err := javaVersion(ctx)
	return map[string]string{"kafka": v, "java": jvm, "franz-go": moduleVersion("github.com/twmb/franz-go")}, err
}

// kafkaServer is a running broker. Topics are named by use and size of body.
type kafkaServer struct {
	config
	at       place
	seeds    []string
	conf     string // directory of our files
	class    string // class path
	settings []byte
	brokers  []*process
	client   *kgo.Client
	admin    *kadm.Client
	made     map[string]bool
	sent     map[string]int64   // messages in a topic
	rates    map[string]float64 // that franz-go reached, by topic
	payloads map[int]string     // files for the producer tool, by size
}

func (k *kafka) start(ctx context.Context, c config, at place) (server, error) {
	conf, err := filepath.Abs(filepath.Join(c.root, "bench/peers/kafka"))
	if err != nil {
		return nil, err
	}
	s := &kafkaServer{config: c, at: at, conf: conf, class: filepath.Join(conf, "target/lib/*"),
		made: map[string]bool{}, sent: map[string]int64{}, rates: map[string]float64{}, payloads: map[int]string{}}
	if s.settings, err = os.ReadFile(filepath.Join(conf, "server.properties")); err != nil {
		return nil, err
	}
	for i := range k.nodes {
		s.seeds = append(s.seeds, port(kafkaAddr, i))
	}
	if s.client, err = kgo.NewClient(kgo.SeedBrokers(s.seeds...)); err != nil {
		return nil, err
	}
	s.admin = kadm.NewClient(s.client)
	for i := range k.nodes {
		p, err := s.launch(ctx, i)
		if err != nil {
			s.stop()
			return nil, err
		}
		s.brokers = append(s.brokers, p)
	}
	err = s.brokers[0].await(ctx, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		b, err := s.admin.ListBrokers(ctx)
		if err == nil && len(b) < k.nodes {
			err = fmt.Errorf("%d of %d brokers are registered", len(b), k.nodes)
		}
		return err
	})
	if err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// logs is the directory of node i.
func (s *kafkaServer) logs(i int) string { return filepath.Join(s.at.dir, fmt.Sprint("logs", i+1)) }

// launch starts node i.
func (s *kafkaServer) launch(ctx context.Context, i int) (*process, error) {
	own := fmt.Sprintf("log.dirs=%s\n", s.logs(i))
	if s.at.durability == sync_ {
		own += "log.flush.interval.messages=1\n"
	}
	if nodes := len(s.seeds); nodes > 1 {
		var voters []string
		for n := range nodes {
			voters = append(voters, fmt.Sprintf("%d@%s", n+1, port(kafkaController, n)))
		}
		own += kafkaOfThree + fmt.Sprintf("node.id=%d\ncontroller.quorum.voters=%s\nlisteners=PLAINTEXT://%s,CONTROLLER://%s\nadvertised.listeners=PLAINTEXT://%[3]s\n",
			i+1, strings.Join(voters, ","), port(kafkaAddr, i), port(kafkaController, i))
	}
	file := filepath.Join(s.at.dir, fmt.Sprintf("server-%d.properties", i+1))
	if err := os.WriteFile(file, append(slices.Clip(s.settings), own...), 0o644); err != nil {
		return nil, err
	}
	const clusterID = "MkU3OEVBNTcwNTJENDM2Qg"
	format := s.toolArgv("kafka.tools.StorageTool", "format", "-t", clusterID, "-c", file)
	argv := s.argv(kafkaServerJVM, "log4j2.properties", "kafka.Kafka", file)
	s.note(format)
	s.note(argv)
	if _, err := runTool(ctx, s.at.dir, nil, format...); err != nil {
		return nil, err
	}
	return launch(s.at.dir, fmt.Sprint("kafka", i+1), nil, argv...)
}

func (s *kafkaServer) argv(jvm []string, logging, class string, args ...string) []string {
	argv := append([]string{java()}, jvm...)
	argv = append(argv, "-Dlog4j2.configurationFile="+filepath.Join(s.conf, logging), "-cp", s.class, class)
	return append(argv, args...)
}

func (s *kafkaServer) toolArgv(class string, args ...string) []string {
	return s.argv(kafkaToolJVM, "tools-log4j2.properties", class, args...)
}

func (s *kafkaServer) note(argv []string) {
	s.at.commands.add(map[string]string{s.at.dir: "$DIR", s.conf: "bench/peers/kafka", java(): "java"}, argv...)
}

// tool runs one of Kafka's performance tools. args gives its arguments for
// numbers that differ from run to run, so that they can be noted by name.
func (s *kafkaServer) tool(ctx context.Context, class string, args func(records, warm string) []string, records, warm int64) (string, error) {
	s.note(s.toolArgv(class, args("$RECORDS", "$WARMUP")...))
	return runTool(ctx, s.at.dir, nil, s.toolArgv(class, args(fmt.Sprint(records), fmt.Sprint(warm))...)...)
}

func (s *kafkaServer) processes() []*process { return s.brokers }

// kill ends the last node as a power cut would: it leads a third of the partitions.
func (s *kafkaServer) kill(context.Context) error {
	return s.brokers[len(s.brokers)-1].cmd.Process.Kill()
}

// spare is the last node, too.
func (s *kafkaServer) spare(context.Context) (int, error) { return len(s.brokers) - 1, nil }

func (s *kafkaServer) inSync(ctx context.Context, enough func(nodes int) bool) (bool, error) {
	all, err := s.admin.ListTopics(ctx)
	each := len(all) > 0
	for _, t := range all {
		for _, p := range t.Partitions {
			each = each && enough(len(p.ISR))
		}
	}
	return each, errors.Join(err, all.Error())
}

func (s *kafkaServer) stop() {
	s.client.Close()
	stopAll(s.brokers)
}

func (s *kafkaServer) phases() []phase {
	const tool, franz = "its performance tools", "franz-go"
	if len(s.brokers) > 1 {
		return threeNodePhases(franz, cluster{nodes: s.brokers, topic: s.topic, publish: s.publish, rate: s.rate, kill: s.kill,
			spare: s.spare, data: s.logs, launch: s.launch, inSync: s.inSync}, s.config)
	}
	var all []phase
	for _, size := range []int{1024, 100} {
		topic := fmt.Sprintf("bench-%d", size)
		exists := func(ctx context.Context) error { return s.topic(ctx, topic) }
		all = append(all,
			phase{Shape: shapePublish, Client: franz, Size: size, prepare: exists, run: func(ctx context.Context, length time.Duration) (outcome, error) {
				return s.publish(ctx, []string{topic}, size, length)
			}},
			phase{Shape: shapePublish, Client: tool, Size: size, prepare: exists, cold: true, run: func(ctx context.Context, length time.Duration) (outcome, error) {
				return s.publishTool(ctx, topic, size, length)
			}},
		)
	}
	for _, size := range []int{1024, 100} {
		topic := fmt.Sprintf("bench-%d", size)
		filled := func(ctx context.Context) error {
			if err := s.topic(ctx, topic); err != nil || s.sent[topic] > 0 {
				return err
			}
			_, err := s.publish(ctx, []string{topic}, size, 2*s.length)
			return err
		}
		all = append(all,
			phase{Shape: shapeConsume, Client: franz, Size: size, asyncOnly: true, prepare: filled, run: func(ctx context.Context, length time.Duration) (outcome, error) {
				return s.consume(ctx, topic, length)
			}},
			phase{Shape: shapeConsume, Client: tool, Size: size, asyncOnly: true, prepare: filled, cold: true, run: func(ctx context.Context, _ time.Duration) (outcome, error) {
				return s.consumeTool(ctx, topic)
			}},
		)
	}
	for _, shape := range []string{shapeSend, shapeThrough} {
		topic := map[string]string{shapeSend: "rate", shapeThrough: "through"}[shape]
		all = append(all, phase{Shape: shape, Client: franz, Size: 1024,
			prepare: func(ctx context.Context) error { return s.topic(ctx, topic) },
			run: func(ctx context.Context, length time.Duration) (outcome, error) {
				return s.rate(ctx, topic, 1024, s.ratedIn(length), shape == shapeThrough)
			}})
	}
	return append(all, phase{Shape: shapeMany, Client: franz, Size: 1024, asyncOnly: true,
		prepare: func(ctx context.Context) error { return s.topics(ctx, "many", s.queues/queuesOfMany, queuesOfMany) },
		run: func(ctx context.Context, length time.Duration) (outcome, error) {
			return s.publish(ctx, topicNames("many", s.queues/queuesOfMany), 1024, length)
		}})
}

func (s *kafkaServer) topic(ctx context.Context, name string) error {
	return s.topics(ctx, name, 1, queues)
}

func (s *kafkaServer) topics(ctx context.Context, prefix string, count int, partitions int32) error {
	if s.made[prefix] {
		return nil
	}
	s.made[prefix] = true
	// One request for thousands of partitions would run into the client's time-out.
	for names := range slices.Chunk(topicNames(prefix, count), 100) {
		answers, err := s.admin.CreateTopics(ctx, partitions, int16(len(s.brokers)), nil, names...)
		if err := errors.Join(err, answers.Error()); err != nil {
			return err
		}
	}
	// The controller answers before the broker has opened the logs.
	for {
		ends, err := s.admin.ListEndOffsets(ctx, topicNames(prefix, count)...)
		if err == nil && ends.Error() == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ends.Error())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// publishTool runs Kafka's own producer tool for about length. It takes a number
// of records, so it gets what franz-go managed in that time, and 1/4 before that
// which it leaves out of its result. Payloads come from a file: by default the
// tool makes each byte of each message at random, and is slower than the broker.
func (s *kafkaServer) publishTool(ctx context.Context, topic string, size int, length time.Duration) (outcome, error) {
	rate := s.rates[topic]
	if rate == 0 {
		o, err := s.publish(ctx, []string{topic}, size, length/2)
		if err != nil {
			return outcome{}, err
		}
		rate = o.Rate
	}
	payloads, err := s.payload(size)
	if err != nil {
		return outcome{}, err
	}
	measured := int64(rate * length.Seconds())
	warm := measured / 4
	out, err := s.tool(ctx, "org.apache.kafka.tools.ProducerPerformance", func(records, warm string) []string {
		return append([]string{"--bootstrap-server", kafkaAddr, "--topic", topic, "--num-records", records, "--warmup-records", warm,
			"--throughput", "-1", "--payload-file", payloads, "--command-property"}, kafkaProducer...)
	}, warm+measured, warm)
	if err != nil {
		return outcome{}, err
	}
	s.sent[topic] += warm + measured
	got, err := parseProducerTool(out)
	return outcome{Messages: warm + measured, Rate: got}, err
}

// parseProducerTool takes the rate from the tool's last line about the steady
// state: "800000 steady state records sent, 132604.011271 records/sec (...".
func parseProducerTool(out string) (float64, error) {
	for line := range strings.Lines(out) {
		if _, rest, ok := strings.Cut(line, "steady state records sent, "); ok {
			number, _, _ := strings.Cut(rest, " ")
			return strconv.ParseFloat(number, 64)
		}
	}
	return 0, fmt.Errorf("the producer tool gave no rate:\n%s", out)
}

// consumeTool runs Kafka's own consumer tool over all that is in the topic. Its
// result leaves out what joining the group took.
func (s *kafkaServer) consumeTool(ctx context.Context, topic string) (outcome, error) {
	out, err := s.tool(ctx, "org.apache.kafka.tools.ConsumerPerformance", func(records, _ string) []string {
		return []string{"--bootstrap-server", kafkaAddr, "--topic", topic, "--num-records", records, "--timeout", "20000"}
	}, s.sent[topic], 0)
	if err != nil {
		return outcome{}, err
	}
	return parseConsumerTool(out)
}

// parseConsumerTool reads the table that the tool prints, by the names of its
// columns.
func parseConsumerTool(out string) (outcome, error) {
	lines := strings.Split(strings.TrimSpace(out), "\n")
	for i := range len(lines) - 1 {
		names, values := strings.Split(lines[i], ", "), strings.Split(lines[i+1], ", ")
		if names[0] != "start.time" || len(names) != len(values) {
			continue
		}
		var o outcome
		for j, name := range names {
			var err error
			switch name {
			case "data.consumed.in.nMsg":
				o.Messages, err = strconv.ParseInt(values[j], 10, 64)
			case "fetch.nMsg.sec":
				o.Rate, err = strconv.ParseFloat(strings.TrimSpace(values[j]), 64)
			}
			if err != nil {
				return outcome{}, err
			}
		}
		if o.Messages > 0 && o.Rate > 0 {
			return o, nil
		}
	}
	return outcome{}, fmt.Errorf("the consumer tool gave no rate:\n%s", out)
}

// payload is a file of 1,000 different bodies, a line each.
func (s *kafkaServer) payload(size int) (string, error) {
	if file, ok := s.payloads[size]; ok {
		return file, nil
	}
	var b strings.Builder
	for i := range 1000 {
		for j := range size {
			b.WriteByte(byte('a' + (i+j*7)%26))
		}
		b.WriteByte('\n')
	}
	file := filepath.Join(s.at.dir, fmt.Sprintf("payload-%d", size))
	s.payloads[size] = file
	return file, os.WriteFile(file, []byte(b.String()), 0o644)
}
