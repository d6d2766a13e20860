module github.com/gantry-mq/gantry/test/descriptors

go 1.26.8

replace github.com/gantry-mq/gantry => ../..

require (
	github.com/apache/rocketmq-clients/golang/v5 v5.1.4
	github.com/gantry-mq/gantry v0.0.0-00010101000000-000000000000
	google.golang.org/protobuf v1.36.12
)

require (
	golang.org/x/net v0.60.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/text v0.42.0 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20260928230214-8a89bd6388cc // indirect
	google.golang.org/grpc v1.85.0 // indirect
)
