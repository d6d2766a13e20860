package interop;

import com.google.gson.Gson;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.apache.rocketmq.client.apis.ClientConfiguration;
import org.apache.rocketmq.client.apis.ClientConfigurationBuilder;
import org.apache.rocketmq.client.apis.ClientServiceProvider;
import org.apache.rocketmq.client.apis.StaticSessionCredentialsProvider;
import org.apache.rocketmq.client.apis.consumer.ConsumeResult;
import org.apache.rocketmq.client.apis.consumer.FilterExpression;
import org.apache.rocketmq.client.apis.consumer.FilterExpressionType;
import org.apache.rocketmq.client.apis.consumer.LitePushConsumer;
import org.apache.rocketmq.client.apis.consumer.PushConsumer;
import org.apache.rocketmq.client.apis.consumer.SimpleConsumer;
import org.apache.rocketmq.client.apis.message.MessageBuilder;
import org.apache.rocketmq.client.apis.message.MessageView;
import org.apache.rocketmq.client.apis.producer.Producer;
import org.apache.rocketmq.client.apis.producer.ProducerBuilder;
import org.apache.rocketmq.client.apis.producer.SendReceipt;
import org.apache.rocketmq.client.apis.producer.Transaction;
import org.apache.rocketmq.client.apis.producer.TransactionResolution;

/**
 * Drives the official RocketMQ Java client for the interop suite. It plays the roles of a spec file (see ../../README.md of the clients)
 * and writes what happened to standard output, one JSON object per line. Consumers run until standard input ends.
 */
public final class Client {
    private static final Gson GSON = new Gson().newBuilder().serializeNulls().disableHtmlEscaping().create();
    private static final CountDownLatch STOP = new CountDownLatch(1);
    private static final ClientServiceProvider PROVIDER = ClientServiceProvider.loadService();

    private record Spec(String endpoint, List<Role> roles) {
    }

    private record Body(String body, String body_file, String tag, List<String> keys, Map<String, String> properties, String group,
        int delay_s, String lite, int priority, int recall, String transaction) {
    }

    private record Role(String name, String kind, String topic, String group, String filter, boolean sql,
        Map<String, Integer> fail, Map<String, List<String>> plan, int invisible_s, int interval_ms, boolean retry, boolean stay,
        List<String> lites, String user, String secret, String namespace, List<Body> messages) {
    }

    private final Role role;
    private final ClientConfiguration configuration;
    // How often this process has seen each message: a client that retries by itself does not raise the attempt.
    private final Map<String, Integer> seen = new ConcurrentHashMap<>();

    private Client(String endpoint, Role role) {
        this.role = role;
        ClientConfigurationBuilder builder = ClientConfiguration.newBuilder().setEndpoints(endpoint);
        if (role.user != null) {
            builder.setCredentialProvider(new StaticSessionCredentialsProvider(role.user, role.secret));
        }
        if (role.namespace != null) {
            builder.setNamespace(role.namespace);
        }
        this.configuration = builder.build();
    }

    public static void main(String[] args) throws Exception {
        Spec spec = GSON.fromJson(Files.readString(Path.of(args[0])), Spec.class);
        Thread input = new Thread(() -> {
            try {
                System.in.readAllBytes();
            } catch (IOException e) {
                System.err.println(e);
            }
            STOP.countDown();
        });
        input.setDaemon(true);
        input.start();
        List<Thread> threads = new ArrayList<>();
        for (Role role : spec.roles) {
            Thread thread = new Thread(new Client(spec.endpoint, role)::run);
            threads.add(thread);
            thread.start();
        }
        for (Thread thread : threads) {
            thread.join();
        }
        // A failed start leaves threads of the client behind; they must not keep the process.
        System.exit(0);
    }

    private void run() {
        try {
            switch (role.kind) {
                case "produce" -> produce();
                case "push" -> push();
                case "simple" -> simple();
                case "lite" -> lite();
                default -> throw new IllegalArgumentException(role.kind);
            }
        } catch (Throwable e) {
            error("start", e);
        }
    }

    private void emit(String event, Object... fields) {
        Map<String, Object> line = new LinkedHashMap<>();
        line.put("role", role.name);
        line.put("event", event);
        line.put("at_ms", System.currentTimeMillis());
        for (int i = 0; i < fields.length; i += 2) {
            line.put((String) fields[i], fields[i + 1]);
        }
        byte[] bytes = (GSON.toJson(line) + "\n").getBytes(StandardCharsets.UTF_8);
        synchronized (Client.class) {
            System.out.write(bytes, 0, bytes.length);
            System.out.flush();
        }
    }

    private void error(String op, Throwable e) {
        emit("error", "op", op, "message", story(e));
    }

    /** The exception and its causes: the client wraps what the server answered. */
    private static String story(Throwable e) {
        StringBuilder b = new StringBuilder(String.valueOf(e));
        for (Throwable cause = e.getCause(); cause != null; cause = cause.getCause()) {
            b.append("; caused by ").append(cause);
        }
        return b.toString();
    }

    private Map<String, FilterExpression> subscription() {
        FilterExpressionType type = role.sql ? FilterExpressionType.SQL92 : FilterExpressionType.TAG;
        return Collections.singletonMap(role.topic, new FilterExpression(role.filter, type));
    }

    private void delivered(MessageView view, int nth, String action) {
        ByteBuffer buffer = view.getBody();
        byte[] body = new byte[buffer.remaining()];
        buffer.get(body);
        try {
            emit("message", "id", view.getMessageId().toString(), "size", body.length,
                "sha256", HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(body)),
                "tag", view.getTag().orElse(null), "keys", view.getKeys(), "properties", view.getProperties(),
                "group", view.getMessageGroup().orElse(null), "lite", view.getLiteTopic().orElse(null), "attempt", view.getDeliveryAttempt(), "delivery", nth, "action", action);
        } catch (java.security.NoSuchAlgorithmException e) {
            throw new IllegalStateException(e);
        }
    }

    private void produce() throws Exception {
        List<Body> messages = role.messages == null ? List.of() : role.messages;
        ProducerBuilder builder = PROVIDER.newProducerBuilder().setClientConfiguration(configuration).setTopics(role.topic);
        if (!messages.isEmpty() && messages.get(0).transaction != null) {
            builder.setTransactionChecker(this::check);
        }
        Producer producer = builder.build();
        emit("started");
        for (int i = 0; i < messages.size(); i++) {
            while (true) {
                try {
                    send(producer, messages.get(i), i);
                    break;
                } catch (Exception e) {
                    emit("error", "op", "send", "index", i, "message", story(e));
                    if (!role.retry) {
                        break;
                    }
                    Thread.sleep(200);
                }
            }
            Thread.sleep(role.interval_ms);
        }
        if (role.stay) {
            emit("done");
            STOP.await();
        }
        producer.close();
        emit("closed");
    }

    /** Resolves a transaction that was left open, as the message's property "resolve" says. */
    private TransactionResolution check(MessageView view) {
        delivered(view, 1, "check");
        return "commit".equals(view.getProperties().get("resolve")) ? TransactionResolution.COMMIT : TransactionResolution.ROLLBACK;
    }

    private void send(Producer producer, Body spec, int index) throws Exception {
        MessageBuilder builder = PROVIDER.newMessageBuilder().setTopic(role.topic);
        builder.setBody(spec.body_file == null ? spec.body.getBytes(StandardCharsets.UTF_8) : Files.readAllBytes(Path.of(spec.body_file)));
        if (spec.tag != null) {
            builder.setTag(spec.tag);
        }
        if (spec.keys != null) {
            builder.setKeys(spec.keys.toArray(String[]::new));
        }
        if (spec.properties != null) {
            spec.properties.forEach(builder::addProperty);
        }
        if (spec.group != null) {
            builder.setMessageGroup(spec.group);
        }
        if (spec.delay_s != 0) {
            builder.setDeliveryTimestamp(System.currentTimeMillis() + spec.delay_s * 1000L);
        }
        if (spec.lite != null) {
            builder.setLiteTopic(spec.lite);
        }
        if (spec.priority != 0) {
            builder.setPriority(spec.priority);
        }
        if (spec.transaction == null) {
            SendReceipt receipt = producer.send(builder.build());
            emit("sent", "index", index, "id", receipt.getMessageId().toString());
            for (int i = 0; i < spec.recall; i++) {
                recall(producer, index, receipt.getRecallHandle());
            }
            return;
        }
        Transaction transaction = producer.beginTransaction();
        String id = producer.send(builder.build(), transaction).getMessageId().toString();
        switch (spec.transaction) {
            case "commit" -> transaction.commit();
            case "rollback" -> transaction.rollback();
            default -> { }
        }
        emit("sent", "index", index, "id", id);
    }

    private void recall(Producer producer, int index, String handle) {
        try {
            emit("recalled", "index", index, "id", producer.recallMessage(role.topic, handle).getMessageId().toString());
        } catch (Exception e) {
            emit("error", "op", "recall", "index", index, "message", story(e));
        }
    }

    private void push() throws Exception {
        PushConsumer consumer = PROVIDER.newPushConsumerBuilder().setClientConfiguration(configuration).setConsumerGroup(role.group)
            .setSubscriptionExpressions(subscription()).setMessageListener(this::consume).build();
        emit("started");
        STOP.await();
        consumer.close();
        emit("closed");
    }

    private ConsumeResult consume(MessageView view) {
        int nth = seen.merge(view.getMessageId().toString(), 1, Integer::sum);
        int failures = role.fail == null ? 0 : role.fail.getOrDefault(view.getProperties().getOrDefault("case", ""), 0);
        delivered(view, nth, nth <= failures ? "fail" : "ok");
        return nth <= failures ? ConsumeResult.FAILURE : ConsumeResult.SUCCESS;
    }

    private void lite() throws Exception {
        LitePushConsumer consumer = PROVIDER.newLitePushConsumerBuilder().setClientConfiguration(configuration).setConsumerGroup(role.group)
            .bindTopic(role.topic).setMessageListener(this::consume).build();
        for (String name : role.lites) {
            try {
                consumer.subscribeLite(name);
            } catch (Exception e) {
                error("subscribe", e);
            }
        }
        emit("started");
        Set<String> mine = Set.copyOf(consumer.getLiteTopicSet());
        while (!STOP.await(100, TimeUnit.MILLISECONDS)) {
            Set<String> now = Set.copyOf(consumer.getLiteTopicSet());
            for (String name : mine) {
                if (!now.contains(name)) {
                    emit("lost", "lite", name);
                }
            }
            mine = now;
        }
        consumer.close();
        emit("closed");
    }

    private void simple() throws Exception {
        SimpleConsumer consumer = PROVIDER.newSimpleConsumerBuilder().setClientConfiguration(configuration).setConsumerGroup(role.group)
            .setAwaitDuration(Duration.ofSeconds(10)).setSubscriptionExpressions(subscription()).build();
        emit("started");
        while (STOP.getCount() > 0) {
            List<MessageView> views;
            try {
                views = consumer.receive(16, Duration.ofSeconds(role.invisible_s));
            } catch (Exception e) {
                error("receive", e);
                Thread.sleep(200);
                continue;
            }
            for (MessageView view : views) {
                int nth = seen.merge(view.getMessageId().toString(), 1, Integer::sum);
                String action = action(view, nth);
                delivered(view, nth, action);
                try {
                    act(consumer, view, action);
                } catch (Exception e) {
                    error(action, e);
                }
            }
        }
        consumer.close();
        emit("closed");
    }

    private String action(MessageView view, int nth) {
        List<String> plan = role.plan == null ? null : role.plan.get(view.getProperties().getOrDefault("case", ""));
        return plan != null && nth <= plan.size() ? plan.get(nth - 1) : "ack";
    }

    /** Does "ack", "leave", "change:SECONDS" or "change:SECONDS+ack" (which acks with the handle that the change returned). */
    private static void act(SimpleConsumer consumer, MessageView view, String action) throws Exception {
        String change = action.endsWith("+ack") ? action.substring(0, action.length() - 4) : action;
        if (change.startsWith("change:")) {
            consumer.changeInvisibleDuration(view, Duration.ofSeconds(Long.parseLong(change.substring("change:".length()))));
        }
        if (action.equals("ack") || !change.equals(action)) {
            consumer.ack(view);
        }
    }
}
