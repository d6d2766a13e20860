// Drives the official RocketMQ Node.js client for the interop suite. It plays the roles of a spec file (see ../../README.md) and writes
// what happened to standard output, one JSON object per line. Consumers run until standard input ends.
'use strict';

const { createHash } = require('node:crypto');
const { readFileSync } = require('node:fs');
const { setTimeout: sleep } = require('node:timers/promises');
const { Producer, PushConsumer, LitePushConsumerImpl, SimpleConsumer, ConsumeResult, ConsumeResultSuspend, FilterExpression } = require('rocketmq-client-nodejs');
const { FilterType, TransactionResolution } = require('rocketmq-client-nodejs/proto/apache/rocketmq/v2/definition_pb');

let stopped = false;
const stop = new Promise(resolve => {
  process.stdin.on('end', () => { stopped = true; resolve(); });
  process.stdin.resume();
});

class Role {
  constructor(endpoint, spec) {
    this.spec = spec;
    this.endpoint = endpoint;
    this.seen = new Map();
  }

  emit(event, fields = {}) {
    process.stdout.write(JSON.stringify({ role: this.spec.name, event, at_ms: Date.now(), ...fields }) + '\n');
  }

  // How often this process has seen the message: a client that retries by itself does not raise the attempt.
  next(view) {
    const nth = (this.seen.get(view.messageId) ?? 0) + 1;
    this.seen.set(view.messageId, nth);
    return nth;
  }

  delivered(view, nth, action) {
    this.emit('message', {
      id: view.messageId, size: view.body.length, sha256: createHash('sha256').update(view.body).digest('hex'),
      tag: view.tag || null, keys: view.keys, properties: Object.fromEntries(view.properties), group: view.messageGroup || null, lite: view.liteTopic || null,
      attempt: view.deliveryAttempt, delivery: nth, action,
    });
  }

  async run() {
    try {
      await this[this.spec.kind]();
    } catch (e) {
      this.emit('error', { op: 'start', message: String(e) });
    }
  }

  async produce() {
    const messages = this.spec.messages ?? [];
    const options = { endpoints: this.endpoint, namespace: '', sessionCredentials: this.credentials(), topics: [ this.spec.topic ] };
    if (messages[0]?.transaction) options.checker = { check: async view => this.check(view) };
    const producer = new Producer(options);
    await producer.startup();
    this.emit('started');
    for (const [ index, message ] of messages.entries()) {
      for (;;) {
        try {
          const receipt = await this.send(producer, message);
          this.emit('sent', { index, id: receipt.messageId });
          for (let i = 0; i < (message.recall ?? 0); i++) await this.recall(producer, index, receipt.recallHandle);
          break;
        } catch (e) {
          this.emit('error', { op: 'send', index, message: String(e) });
          if (!this.spec.retry) break;
          await sleep(200);
        }
      }
      if (this.spec.interval_ms) await sleep(this.spec.interval_ms);
    }
    if (this.spec.stay) {
      this.emit('done');
      await stop;
    }
    await producer.shutdown();
    this.emit('closed');
  }

  async send(producer, m) {
    if (!m.transaction) return producer.send(this.message(m));
    const transaction = producer.beginTransaction();
    const receipt = await producer.send(this.message(m), transaction);
    if (m.transaction === 'commit') await transaction.commit();
    if (m.transaction === 'rollback') await transaction.rollback();
    return receipt;
  }

  async recall(producer, index, handle) {
    try {
      this.emit('recalled', { index, id: (await producer.recallMessage(this.spec.topic, handle)).messageId });
    } catch (e) {
      this.emit('error', { op: 'recall', index, message: String(e) });
    }
  }

  // Resolves a transaction that was left open, as the message's property "resolve" says.
  check(view) {
    this.delivered(view, 1, 'check');
    return view.properties.get('resolve') === 'commit' ? TransactionResolution.COMMIT : TransactionResolution.ROLLBACK;
  }

  message(m) {
    const options = {
      topic: this.spec.topic,
      body: m.body_file ? readFileSync(m.body_file) : Buffer.from(m.body),
      keys: m.keys ?? [],
      properties: new Map(Object.entries(m.properties ?? {})),
    };
    if (m.tag) options.tag = m.tag;
    if (m.group) options.messageGroup = m.group;
    if (m.lite) options.liteTopic = m.lite;
    if (m.priority) options.priority = m.priority;
    if (m.delay_s) options.deliveryTimestamp = new Date(Date.now() + m.delay_s * 1000);
    return options;
  }

  listener() {
    const consume = view => {
      const nth = this.next(view);
      const pause = this.spec.suspend?.[view.properties.get('case')];
      if (pause && nth === 1) {
        this.delivered(view, nth, 'suspend');
        return ConsumeResultSuspend.of(pause);
      }
      if (nth <= (this.spec.fail?.[view.properties.get('case')] ?? 0)) {
        this.delivered(view, nth, 'fail');
        return ConsumeResult.FAILURE;
      }
      this.delivered(view, nth, 'ok');
      return ConsumeResult.SUCCESS;
    };
    return { consume };
  }

  async lite() {
    const { endpoints, namespace, sessionCredentials, consumerGroup } = this.consumerOptions();
    const consumer = new LitePushConsumerImpl({ endpoints, namespace, sessionCredentials, consumerGroup, bindTopic: this.spec.topic, messageListener: this.listener() });
    await consumer.startup();
    // That does not wait for the client's first statement of all it subscribes to, nothing; a subscription that overtakes it is undone until
    // the next one, 30 seconds later.
    await sleep(1000);
    for (const name of this.spec.lites) {
      try {
        await consumer.subscribeLite(name);
      } catch (e) {
        this.emit('error', { op: 'subscribe', message: String(e) });
      }
    }
    this.emit('started');
    for (let mine = new Set(consumer.getLiteTopicSet()); !stopped; await Promise.race([ stop, sleep(100) ])) {
      const now = new Set(consumer.getLiteTopicSet());
      for (const name of mine) if (!now.has(name)) this.emit('lost', { lite: name });
      mine = now;
    }
    await consumer.close();
    this.emit('closed');
  }

  async push() {
    const consumer = new PushConsumer({ ...this.consumerOptions(), messageListener: this.listener() });
    await consumer.startup();
    this.emit('started');
    await stop;
    await consumer.shutdown();
    this.emit('closed');
  }

  async simple() {
    const consumer = new SimpleConsumer(this.consumerOptions());
    await consumer.startup();
    this.emit('started');
    while (!stopped) {
      let views;
      try {
        views = await consumer.receive(16, this.spec.invisible_s * 1000);
      } catch (e) {
        this.emit('error', { op: 'receive', message: String(e) });
        await sleep(200);
        continue;
      }
      for (const view of views) {
        const nth = this.next(view);
        const action = this.spec.plan?.[view.properties.get('case')]?.[nth - 1] ?? 'ack';
        this.delivered(view, nth, action);
        try {
          await act(consumer, view, action);
        } catch (e) {
          this.emit('error', { op: action, message: String(e) });
        }
      }
    }
    await consumer.shutdown();
    this.emit('closed');
  }

  credentials() {
    return this.spec.user ? { accessKey: this.spec.user, accessSecret: this.spec.secret } : undefined;
  }

  consumerOptions() {
    const filter = new FilterExpression(this.spec.filter, this.spec.sql ? FilterType.SQL : FilterType.TAG);
    return {
      endpoints: this.endpoint, namespace: '', sessionCredentials: this.credentials(), consumerGroup: this.spec.group,
      subscriptions: new Map([[ this.spec.topic, filter ]]),
    };
  }
}

// Does "ack", "leave", "change:SECONDS" or "change:SECONDS+ack" (which acks with the handle that the change returned).
async function act(consumer, view, action) {
  const change = /^change:(\d+)(\+ack)?$/.exec(action);
  if (change) await consumer.changeInvisibleDuration(view, Number(change[1]) * 1000);
  if (action === 'ack' || change?.[2]) await consumer.ack(view);
}

async function main() {
  const spec = JSON.parse(readFileSync(process.argv[2], 'utf8'));
  await Promise.all(spec.roles.map(role => new Role(spec.endpoint, role).run()));
  // A failed start leaves timers of the client behind; they must not keep the process. Standard output is a pipe: let it drain.
  process.stdout.write('', () => process.exit(0));
}

main();
