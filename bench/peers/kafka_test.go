package main

import "testing"

const producerOutput = `Reading payloads from: /tmp/payload
Number of records read: 1000
Warmup first 200000 records. Steady state results will print after the complete test summary.
In steady state.
642105 records sent, 128395.3 records/sec (125.39 MB/sec), 238.0 ms avg latency, 575.0 ms max latency.
1000000 records sent, 116373.792622 records/sec (113.65 MB/sec), 242.33 ms avg latency, 648.00 ms max latency, 229 ms 50th, 424 ms 95th, 514 ms 99th, 579 ms 99.9th.
800000 steady state records sent, 132604.011271 records/sec (129.50 MB/sec), 230.11 ms avg latency, 575.00 ms max latency, 223 ms 50th, 357 ms 95th, 477 ms 99th, 552 ms 99.9th.
`

const consumerOutput = `start.time, end.time, data.consumed.in.MB, MB.sec, data.consumed.in.nMsg, nMsg.sec, rebalance.time.ms, fetch.time.ms, fetch.MB.sec, fetch.nMsg.sec
2026-11-25 19:12:58:087, 2026-11-25 19:13:32:277, 3418.2949, 99.9794, 3500334, 102378.8827, 4239, 29951, 114.1296, 116868.6855
`

func TestProducerToolIsReadInItsSteadyState(t *testing.T) {
	got, err := parseProducerTool(producerOutput)
	if err != nil || got != 132604.011271 {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := parseProducerTool("1000000 records sent, 116373.79 records/sec"); err == nil {
		t.Error("a rate with the warm-up in it was taken")
	}
}

func TestConsumerToolIsReadWithoutTheJoin(t *testing.T) {
	got, err := parseConsumerTool(consumerOutput)
	if err != nil || got.Rate != 116868.6855 || got.Messages != 3500334 {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := parseConsumerTool("WARNING: Exiting before consuming the expected number of records"); err == nil {
		t.Error("no table was taken for one")
	}
}
