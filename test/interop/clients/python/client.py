"""Drives the official RocketMQ Python client for the interop suite.

It plays the roles of a spec file (see ../../README.md) and writes what happened to standard output, one JSON object per line.
Consumers run until standard input ends.
"""

import hashlib
import json
import os
import sys
import threading
import time
from collections import defaultdict

from rocketmq import ClientConfiguration, Credentials, FilterExpression, LitePushConsumer, LiteSimpleConsumer, Message, Producer, PushConsumer, SimpleConsumer
from rocketmq import ConsumeResult, MessageListener, TransactionChecker, TransactionResolution
from rocketmq.grpc_protocol import FilterType
from rocketmq.v5.exception import LiteSubscriptionQuotaExceededException

stop = threading.Event()
out = threading.Lock()


class Role:
    def __init__(self, endpoint, spec):
        self.spec = spec
        self.seen = defaultdict(int)
        self.lock = threading.Lock()
        self.config = ClientConfiguration(endpoint, Credentials(spec.get("user", ""), spec.get("secret", "")), spec.get("namespace", ""))

    def emit(self, kind, **fields):
        line = json.dumps({"role": self.spec["name"], "event": kind, "at_ms": int(time.time() * 1000), **fields})
        with out:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()

    def next(self, message):
        """How often this process has seen the message: a client that retries by itself does not raise the attempt."""
        with self.lock:
            self.seen[message.message_id] += 1
            return self.seen[message.message_id]

    def subscription(self):
        kind = FilterType.SQL if self.spec.get("sql") else FilterType.TAG
        return {self.spec["topic"]: FilterExpression(self.spec["filter"], kind)}

    def delivered(self, m, nth, action):
        self.emit(
            "message", id=m.message_id, size=len(m.body), sha256=hashlib.sha256(m.body).hexdigest(), tag=m.tag, keys=sorted(m.keys),
            properties=dict(m.properties), group=m.message_group, lite=m.lite_topic, attempt=m.delivery_attempt, delivery=nth, action=action,
        )

    def run(self):
        try:
            getattr(self, self.spec["kind"])()
        except Exception as e:  # the client raises bare exceptions
            self.emit("error", op="start", message=f"{type(e).__name__}: {e}")

    def produce(self):
        messages = self.spec.get("messages") or []
        checker = Checker(self) if messages and messages[0].get("transaction") else None
        producer = Producer(self.config, [self.spec["topic"]], checker)
        producer.startup()
        self.emit("started")
        for i, spec in enumerate(messages):
            while True:
                try:
                    receipt = self.send(producer, spec)
                    self.emit("sent", index=i, id=receipt.message_id)
                    for _ in range(spec.get("recall") or 0):
                        self.recall(producer, i, receipt.recall_handle)
                    break
                except Exception as e:
                    self.emit("error", op="send", index=i, message=f"{type(e).__name__}: {e}")
                    if not self.spec.get("retry"):
                        break
                    time.sleep(0.2)
            time.sleep(self.spec.get("interval_ms", 0) / 1000)
        if self.spec.get("stay"):
            self.emit("done")
            stop.wait()
        producer.shutdown()
        self.emit("closed")

    def send(self, producer, spec):
        end = spec.get("transaction")
        if not end:
            return producer.send(self.message(spec))
        transaction = producer.begin_transaction()
        receipt = producer.send(self.message(spec), transaction)
        if end == "commit":
            transaction.commit()
        elif end == "rollback":
            transaction.rollback()
        return receipt

    def recall(self, producer, index, handle):
        try:
            self.emit("recalled", index=index, id=producer.recall_message(self.spec["topic"], handle))
        except Exception as e:
            self.emit("error", op="recall", index=index, message=f"{type(e).__name__}: {e}")

    def message(self, spec):
        m = Message()
        m.topic = self.spec["topic"]
        if spec.get("body_file"):
            with open(spec["body_file"], "rb") as f:
                m.body = f.read()
        else:
            m.body = spec["body"].encode()
        if spec.get("tag"):
            m.tag = spec["tag"]
        for key in spec.get("keys") or []:
            m.keys = key  # the setter adds one key
        for k, v in (spec.get("properties") or {}).items():
            m.add_property(k, v)
        if spec.get("group"):
            m.message_group = spec["group"]
        if spec.get("lite"):
            m.lite_topic = spec["lite"]
        if spec.get("priority"):
            m.priority = spec["priority"]
        if spec.get("delay_s"):
            m.delivery_timestamp = int(time.time()) + spec["delay_s"]  # whole seconds
        return m

    def push(self):
        consumer = PushConsumer(self.config, self.spec["group"], Listener(self), self.subscription())
        consumer.startup()
        self.emit("started")
        stop.wait()
        consumer.shutdown()
        self.emit("closed")

    def lite(self):
        consumer = LitePushConsumer(self.config, self.spec["group"], self.spec["topic"], Listener(self))
        consumer.startup()
        self.subscribe(consumer)
        self.emit("started")
        stop.wait()
        consumer.shutdown()
        self.emit("closed")

    def lite_simple(self):
        consumer = LiteSimpleConsumer(self.spec["topic"], self.config, self.spec["group"])
        consumer.startup()
        self.subscribe(consumer)
        self.poll(consumer)

    def subscribe(self, consumer):
        for name in self.spec["lites"]:
            try:
                self.subscribe_lite(consumer, name)
            except Exception as e:
                self.emit("error", op="subscribe", message=f"{type(e).__name__}: {e}")

    def subscribe_lite(self, consumer, name):
        # A LiteSimpleConsumer's startup does not wait for the server's settings, as a
        # LitePushConsumer's does. Until they are there it takes its quota to be 0.
        for _ in range(100):
            try:
                return consumer.subscribe_lite(name)
            except LiteSubscriptionQuotaExceededException as e:
                if not str(e).rstrip().endswith("quota: 0"):
                    raise
                time.sleep(0.1)
        consumer.subscribe_lite(name)

    def simple(self):
        # It asks one queue after the other, and waits so long at each that is empty.
        consumer = SimpleConsumer(self.config, self.spec["group"], self.subscription(), await_duration=5)
        consumer.startup()
        self.poll(consumer)

    def poll(self, consumer):
        self.emit("started")
        while not stop.is_set():
            try:
                messages = consumer.receive(16, self.spec["invisible_s"])
            except Exception as e:
                self.emit("error", op="receive", message=f"{type(e).__name__}: {e}")
                time.sleep(0.2)
                continue
            for m in messages or []:
                nth = self.next(m)
                plan = (self.spec.get("plan") or {}).get(m.properties.get("case"), [])
                action = plan[nth - 1] if nth <= len(plan) else "ack"
                self.delivered(m, nth, action)
                try:
                    act(consumer, m, action)
                except Exception as e:
                    self.emit("error", op=action, message=f"{type(e).__name__}: {e}")
        consumer.shutdown()
        self.emit("closed")


class Listener(MessageListener):
    def __init__(self, role):
        self.role = role

    def consume(self, message):
        nth = self.role.next(message)
        if nth <= (self.role.spec.get("fail") or {}).get(message.properties.get("case"), 0):
            self.role.delivered(message, nth, "fail")
            return ConsumeResult.FAILURE
        self.role.delivered(message, nth, "ok")
        return ConsumeResult.SUCCESS


class Checker(TransactionChecker):
    """Resolves a transaction that was left open, as the message's property "resolve" says."""

    def __init__(self, role):
        self.role = role

    def check(self, message):
        self.role.delivered(message, 1, "check")
        commit = message.properties.get("resolve") == "commit"
        return TransactionResolution.COMMIT if commit else TransactionResolution.ROLLBACK


def act(consumer, message, action):
    """Does "ack", "leave", "change:SECONDS" or "change:SECONDS+ack" (which acks with the handle that the change returned)."""
    change = action.removesuffix("+ack")
    if change.startswith("change:"):
        consumer.change_invisible_duration(message, int(change.removeprefix("change:")))
    if action == "ack" or change != action:
        consumer.ack(message)


def main():
    with open(sys.argv[1], encoding="utf-8") as f:
        spec = json.load(f)
    threads = [threading.Thread(target=Role(spec["endpoint"], r).run) for r in spec["roles"]]
    for t in threads:
        t.start()

    def until_end_of_input():
        sys.stdin.buffer.read()
        stop.set()

    threading.Thread(target=until_end_of_input, daemon=True).start()
    for t in threads:
        t.join()
    sys.stdout.flush()
    os._exit(0)  # a failed start leaves threads of the client behind; they must not keep the process


main()
