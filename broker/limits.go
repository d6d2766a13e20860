package broker

import (
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// Limits of the public contract, in one place. Sources: wire-contract 2.3 (send),
// 2.5 and 2.6 (receive), 4.4 (properties).
const (
	MaxBodyBytes       = record.MaxBody // as transmitted, and decompressed
	MaxPropertyCount   = 128            // user properties of one message
	MaxPropertyBytes   = 16 << 10       // user keys + user values + tag + keys, UTF-8
	MaxMessageGroupLen = 63             // bytes
	MaxTopicLen        = 127
	MaxGroupLen        = 120
	MaxLiteTopicLen    = 64
	MaxLiteTopics      = 1_000_000 // of all parents together
	MinLiteTTL         = 15 * time.Minute
	MaxLiteTTL         = 30 * 24 * time.Hour
	MaxSendBatch       = 1024    // messages in one SendMessage
	MaxPackBytes       = 8 << 20 // records of one batch of gantry.v1
	MaxPackRecords     = 1 << 16
	DefaultMaxDelay    = 366 * 24 * time.Hour
	MaxTimerList       = 1000 // delayed messages in one listing

	// Bodies that the broker decompresses for those that cannot, together, until they
	// are sent; and how long a delivery waits for room, after which those who have not
	// taken a body for as long lose their connections.
	MaxUnpacked = 64 << 20
	UnpackWait  = 3 * time.Second

	// Sends and batches that are under way at once, and their bytes. A quarter of the
	// number shares its syncs as well, and is the bound while sends are slow
	// (admission.Slow), but those beyond it cost less waiting than refused and made again.
	// Connections whose single sends are SendsPerProcessor for each processor already, some
	// 30 ms of its time, are not read meanwhile (admission.Gate.Hold).
	MaxSends          = 16_384
	SendsPerProcessor = 1024
	DefaultSendMemory = 256 << 20
	MinSendMemory     = 32 << 20

	MinRetainAge    = time.Second // of one topic
	MinDedupWindow  = time.Second
	MaxDedupWindow  = 7 * 24 * time.Hour
	DefaultDedupMax = 1 << 18 // messages remembered of one topic, at some 92 bytes each
	MaxDedupMax     = 1 << 24
	MaxDedupKeyLen  = 255

	// Lite topics that all clients subscribe to together. The reference's 100,000
	// are too few for hundreds of thousands of lite topics.
	MaxLiteSubscriptions = 1_000_000
	DefaultLiteQuota     = 2000    // of one client
	MaxLiteQuota         = 100_000 // what a group may give its clients

	MaxReceiveBatch    = 32
	MinInvisible       = 10 * time.Second // asked for with a receive
	MaxInvisible       = 12 * time.Hour
	MaxHold            = 3 * time.Hour   // of an auto-renewed lease
	ReleaseDelay       = 1 * time.Second // visibility after a client vanished
	MaxPollWait        = 20 * time.Second
	MinPollWait        = 5 * time.Second
	MaxWaitersPerGroup = 16_384  // parked receives per (topic, group): RocketMQ has 1,024 for each queue of it
	MaxWaiters         = 100_000 // parked receives in all
	MaxInFlight        = 20_000  // leases per (group, queue)

	// PriorityShare bounds how long messages of a lower priority wait: of so many
	// messages handed out past them, one is from below.
	PriorityShare = 16

	MaxQueues         = 1024 // of one topic
	DefaultQueues     = 8
	DefaultAttempts   = 17 // deliveries: the first and 16 more
	MaxAttemptsLimit  = 1000
	MaxRetrySteps     = 64
	ClientExpiry      = 120 * time.Second // without a heartbeat
	MaxRecovery       = 3600 * time.Second
	DefaultRecheckMin = 6 * time.Second // age of a half message at its first check

	TransactionCheckEvery = 30 * time.Second
	TransactionCheckMax   = 15   // checks before a half message is parked
	MaxTransactionPage    = 1000 // half messages in one listing

	MirrorWait = 5 * time.Second // until a group that was made in another shard is known

	MaxClientID = 512 // bytes: it is part of every lease record
	MaxUsers    = 10_000
	MaxPolicies = 256 // of one user: each call may look at all of them
	MaxQuotas   = 10_000
)
