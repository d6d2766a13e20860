package peers;

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.ByteBuffer;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.atomic.AtomicReference;
import java.util.concurrent.locks.LockSupport;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.exception.MQBrokerException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.MixAll;
import org.apache.rocketmq.common.TopicConfig;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.remoting.protocol.body.BrokerReplicasInfo.ReplicasInfo;
import org.apache.rocketmq.remoting.protocol.subscription.SubscriptionGroupConfig;
import org.apache.rocketmq.tools.admin.DefaultMQAdminExt;

/**
 * Load over RocketMQ's own Java client (the remoting protocol), one process for all phases so that it is warm. It reads
 * one command a line from standard input and answers each with one line of JSON:
 *
 * <pre>
 * topics PREFIX COUNT QUEUES                     make COUNT topics, PREFIX alone when COUNT is 1, else PREFIX-0 and on,
 *                                                and the group readers-PREFIX, and wait until all nodes have the last
 * master CONTROLLER                              address of the master, and how many replicas, with it, are in sync
 * send TOPIC SIZE BATCH THREADS SECONDS          synchronous sends of BATCH messages, flat out
 * consume TOPIC GROUP MESSAGES SECONDS           a push consumer from the first offset, until so many or so long
 * rate TOPIC GROUP SIZE PERSECOND MESSAGES E2E   open loop, single asynchronous sends, each repeated until it is taken; E2E 1:
 *                                                a push consumer meanwhile
 * </pre>
 *
 * Whatever fails ends the process with a stack trace on standard error.
 */
public final class Remoting {
    private static final int SYSTEM_BUSY = 2; // the broker's answer to more than it wants to take
    private static final int REFUSAL_PAUSE_MS = 10; // keeps us from making that worse
    private static final int WINDOW = 1000; // asynchronous sends under way
    private static final int PATIENCE_MS = 60_000; // for what nodes tell each other

    private final String nameServer;
    private final DefaultMQProducer producer;

    private Remoting(String nameServer) throws Exception {
        this.nameServer = nameServer;
        producer = new DefaultMQProducer("peers-producer");
        producer.setNamesrvAddr(nameServer);
        producer.setSendMsgTimeout(30_000); // a stall is measured, not an error
        producer.start();
    }

    public static void main(String[] args) {
        try {
            serve(new Remoting(args[0]));
        } catch (Throwable t) {
            t.printStackTrace();
            System.exit(1);
        }
        System.exit(0); // the client's threads would keep it alive
    }

    private static void serve(Remoting r) throws Exception {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        for (String line; (line = in.readLine()) != null; ) {
            String[] w = line.trim().split(" +");
            String answer = switch (w[0]) {
                case "topics" -> r.topics(w[1], Integer.parseInt(w[2]), Integer.parseInt(w[3]));
                case "master" -> r.master(w[1]);
                case "send" -> r.send(w[1], Integer.parseInt(w[2]), Integer.parseInt(w[3]), Integer.parseInt(w[4]),
                    Double.parseDouble(w[5]));
                case "consume" -> r.consume(w[1], w[2], Long.parseLong(w[3]), Double.parseDouble(w[4]));
                case "rate" -> r.rate(w[1], w[2], Integer.parseInt(w[3]), Double.parseDouble(w[4]),
                    Integer.parseInt(w[5]), w[6].equals("1"));
                default -> throw new IllegalArgumentException(line);
            };
            System.out.println(answer);
        }
    }

    private static String done(long messages, double seconds, long refused) {
        return String.format(Locale.ROOT, "{\"messages\":%d,\"seconds\":%.6f,\"refused\":%d}", messages, seconds, refused);
    }

    private DefaultMQAdminExt admin() throws Exception {
        DefaultMQAdminExt admin = new DefaultMQAdminExt(120_000); // ms: a broker that makes thousands of queues takes its time
        admin.setNamesrvAddr(nameServer);
        admin.setInstanceName("admin"); // a connection of its own
        admin.start();
        return admin;
    }

    private interface Attempt<T> {
        T run() throws Exception; // null: not yet
    }

    private static <T> T await(Attempt<T> attempt) throws Exception {
        long begun = System.nanoTime();
        while (true) {
            Exception notYet = new IllegalStateException("not within " + PATIENCE_MS + " ms");
            try {
                T got = attempt.run();
                if (got != null) {
                    return got;
                }
            } catch (Exception e) {
                notYet = e;
            }
            if (System.nanoTime() - begun > PATIENCE_MS * 1e6) {
                throw notYet;
            }
            Thread.sleep(50);
        }
    }

    private String topics(String prefix, int count, int queues) throws Exception {
        DefaultMQAdminExt admin = admin();
        long begun = System.nanoTime();
        List<TopicConfig> topics = new ArrayList<>();
        for (int i = 0; i < count; i++) {
            topics.add(new TopicConfig(count == 1 ? prefix : prefix + "-" + i, queues, queues));
        }
        Map<Long, String> nodes = await(() ->
            admin.examineBrokerClusterInfo().getBrokerAddrTable().values().iterator().next().getBrokerAddrs());
        String master = nodes.get(MixAll.MASTER_ID);
        admin.createAndUpdateTopicConfigList(master, topics);
        // The proxy refuses settings of a group that it does not know.
        SubscriptionGroupConfig group = new SubscriptionGroupConfig();
        group.setGroupName("readers-" + prefix);
        admin.createAndUpdateSubscriptionGroupConfig(master, group);
        // A producer must find them: the broker tells the name server by itself. Slaves ask the master every 10 s, and one that
        // became the master before would not know them.
        String last = topics.get(count - 1).getTopicName();
        await(() -> admin.examineTopicRouteInfo(last).getQueueDatas().isEmpty() ? null : last);
        for (String node : nodes.values()) {
            await(() -> admin.examineTopicConfig(node, last));
        }
        admin.shutdown();
        return done(count, (System.nanoTime() - begun) / 1e9, 0);
    }

    private String master(String controller) throws Exception {
        DefaultMQAdminExt admin = admin();
        ReplicasInfo group = await(() -> {
            String name = admin.examineBrokerClusterInfo().getBrokerAddrTable().keySet().iterator().next();
            return admin.getInSyncStateData(controller, List.of(name)).getReplicasInfoTable().get(name);
        });
        admin.shutdown();
        return String.format("{\"master\":\"%s\",\"replicas\":%d}", group.getMasterAddress(), group.getInSyncReplicas().size());
    }

    private static byte[] body(int size) {
        byte[] b = new byte[size];
        for (int i = 0; i < size; i++) {
            b[i] = (byte) ('a' + i * 7 % 26);
        }
        return b;
    }

    private String send(String topic, int size, int batch, int threads, double seconds) throws Exception {
        byte[] body = body(size);
        AtomicLong sent = new AtomicLong();
        AtomicLong refused = new AtomicLong();
        AtomicReference<Throwable> failed = new AtomicReference<>();
        long begun = System.nanoTime();
        long end = begun + (long) (seconds * 1e9);
        Thread[] all = new Thread[threads];
        for (int i = 0; i < threads; i++) {
            all[i] = new Thread(() -> {
                try {
                    while (System.nanoTime() < end && failed.get() == null) {
                        try {
                            check(batch == 1 ? producer.send(new Message(topic, body)) : producer.send(several(topic, body, batch)));
                            sent.addAndGet(batch);
                        } catch (Exception e) {
                            if (!busy(e)) {
                                throw e;
                            }
                            refused.incrementAndGet();
                            Thread.sleep(REFUSAL_PAUSE_MS);
                        }
                    }
                } catch (Throwable t) {
                    failed.compareAndSet(null, t);
                }
            });
            all[i].start();
        }
        for (Thread t : all) {
            t.join();
        }
        if (failed.get() != null) {
            throw new IllegalStateException(failed.get());
        }
        return done(sent.get(), (System.nanoTime() - begun) / 1e9, refused.get());
    }

    private static List<Message> several(String topic, byte[] body, int n) {
        List<Message> m = new ArrayList<>(n);
        for (int i = 0; i < n; i++) {
            m.add(new Message(topic, body));
        }
        return m;
    }

    private static void check(SendResult r) {
        if (r.getSendStatus() != SendStatus.SEND_OK) {
            throw new IllegalStateException(r.toString());
        }
    }

    /** Whether the broker refused for load, also when the client tried several times and wrapped the last answer. */
    private static boolean busy(Throwable t) {
        for (; t != null; t = t.getCause()) {
            if (t instanceof MQBrokerException e && e.getResponseCode() == SYSTEM_BUSY) {
                return true;
            }
        }
        return false;
    }

    private interface Seen {
        void message(byte[] body);
    }

    private DefaultMQPushConsumer consumer(String topic, String group, Seen seen) throws Exception {
        DefaultMQPushConsumer c = new DefaultMQPushConsumer(group);
        c.setNamesrvAddr(nameServer);
        c.setInstanceName(group);
        c.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        c.setConsumeMessageBatchMaxSize(32); // what one pull brings at most; the default of 1 would cost a task a message
        c.subscribe(topic, "*");
        c.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            for (MessageExt m : messages) {
                seen.message(m.getBody());
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        c.start();
        return c;
    }

    /** The time counts from the first message on: how long a group takes to come together is another question. */
    private String consume(String topic, String group, long messages, double seconds) throws Exception {
        AtomicLong seen = new AtomicLong();
        AtomicLong first = new AtomicLong();
        AtomicLong last = new AtomicLong();
        CountDownLatch all = new CountDownLatch(1);
        DefaultMQPushConsumer c = consumer(topic, group, body -> {
            long n = seen.incrementAndGet();
            if (n == 1) {
                first.set(System.nanoTime());
            }
            if (n == messages) {
                last.set(System.nanoTime());
                all.countDown();
            }
        });
        long limit = (long) (seconds * 1e9);
        long begun = System.nanoTime();
        while (first.get() == 0 && System.nanoTime() - begun < 60e9) {
            Thread.sleep(1);
        }
        all.await(limit, TimeUnit.NANOSECONDS);
        long n = Math.min(seen.get(), messages);
        long end = last.get() != 0 ? last.get() : System.nanoTime();
        c.shutdown();
        return done(n, (end - first.get()) / 1e9, 0);
    }

    private String rate(String topic, String group, int size, double perSecond, int messages, boolean endToEnd) throws Exception {
        long[] sent = new long[messages];
        long[] arrived = new long[messages];
        AtomicInteger nArrived = new AtomicInteger();
        AtomicLong refused = new AtomicLong();
        CountDownLatch allSent = new CountDownLatch(messages);
        CountDownLatch allArrived = new CountDownLatch(endToEnd ? messages : 0);
        Window window = new Window(refused);
        byte[] pattern = body(size);
        long born = System.nanoTime();
        DefaultMQPushConsumer c = null;
        if (endToEnd) {
            c = consumer(topic, group, body -> {
                long intended = ByteBuffer.wrap(body).getLong();
                if (intended < born) {
                    return; // left over from another run
                }
                int i = nArrived.getAndIncrement();
                if (i < messages) {
                    arrived[i] = System.nanoTime() - intended;
                    allArrived.countDown();
                }
            });
            Thread.sleep(3000); // until the group has its queues
        }
        long begun = System.nanoTime();
        for (int i = 0; i < messages; i++) {
            long intended = begun + (long) (i / perSecond * 1e9);
            for (long wait; (wait = intended - System.nanoTime()) > 0; ) {
                LockSupport.parkNanos(wait);
            }
            byte[] body = pattern.clone();
            ByteBuffer.wrap(body).putLong(intended);
            int at = i;
            window.send(new Message(topic, body), () -> {
                sent[at] = System.nanoTime() - intended;
                allSent.countDown();
            });
        }
        boolean complete = allSent.await(30, TimeUnit.SECONDS) && allArrived.await(30, TimeUnit.SECONDS);
        double took = (System.nanoTime() - begun) / 1e9;
        if (c != null) {
            c.shutdown();
        }
        if (!complete) {
            throw new IllegalStateException("not every message was answered and received within 30 s", window.failure);
        }
        return String.format(Locale.ROOT, "{\"messages\":%d,\"seconds\":%.6f,\"refused\":%d,\"send\":%s%s}", messages, took, refused.get(),
            percentiles(sent), endToEnd ? ",\"end_to_end\":" + percentiles(arrived) : "");
    }

    /**
     * Asynchronous sends, each repeated until it is taken, and at most WINDOW of them under way: the others wait here. After
     * one that failed nothing is sent for a while, and then one by one until one is taken: while there is no master, thousands
     * a second that try to connect would take its cores from the broker that is to become one.
     */
    private final class Window {
        private final AtomicLong refused;
        private final ArrayDeque<Runnable> waiting = new ArrayDeque<>();
        private int underWay;
        private int limit = WINDOW;
        private volatile Throwable failure; // the last

        private Window(AtomicLong refused) {
            this.refused = refused;
        }

        private synchronized void send(Message m, Runnable taken) {
            waiting.add(() -> attempt(m, taken));
            fill();
        }

        private synchronized void fill() {
            while (underWay < limit && !waiting.isEmpty()) {
                underWay++;
                waiting.remove().run();
            }
        }

        private synchronized void taken() {
            underWay--;
            limit = WINDOW;
            fill();
        }

        private synchronized void failed(Runnable again, Throwable t) {
            failure = t;
            underWay--;
            limit = 0;
            waiting.addFirst(again); // or it would wait for all that came later
            later(this::probe);
        }

        private synchronized void probe() {
            limit = Math.max(limit, 1);
            fill();
        }

        private void later(Runnable r) {
            CompletableFuture.delayedExecutor(REFUSAL_PAUSE_MS, TimeUnit.MILLISECONDS).execute(r);
        }

        private void attempt(Message m, Runnable taken) {
            Runnable again = () -> attempt(m, taken);
            try {
                producer.send(m, new SendCallback() {
                    @Override
                    public void onSuccess(SendResult r) {
                        if (r.getSendStatus() == SendStatus.SEND_OK) {
                            taken.run();
                            taken();
                        } else {
                            failed(again, new IllegalStateException(r.toString()));
                        }
                    }

                    @Override
                    public void onException(Throwable t) {
                        if (busy(t)) {
                            refused.incrementAndGet();
                            later(again);
                        } else {
                            failed(again, t);
                        }
                    }
                });
            } catch (Exception e) {
                failed(again, e);
            }
        }
    }

    private static String percentiles(long[] nanos) {
        Arrays.sort(nanos);
        return String.format(Locale.ROOT, "{\"p50\":%.1f,\"p99\":%.1f,\"p999\":%.1f,\"max\":%.1f}",
            at(nanos, 0.5), at(nanos, 0.99), at(nanos, 0.999), at(nanos, 1));
    }

    private static double at(long[] sorted, double p) {
        return sorted[Math.max(0, (int) Math.ceil(p * sorted.length) - 1)] / 1e3;
    }
}
