package api

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/commitlog/record"
	gantryv1 "github.com/gantry-mq/gantry/proto/gantryv1"
)

// Cluster is what a server knows of the nodes beside the one it is of.
type Cluster interface {
	// Nodes returns all of them and how far they are.
	Nodes(context.Context) []Node
	// Route is where clients find the leader now and after it: the host:port of all
	// nodes, this one first.
	Route() []string
	// Verify asks a majority whether this node still leads, as it has since the server
	// began. After nil, what was read before the call was not out of date when it was
	// read.
	Verify() error
	Remove(ctx context.Context, name string) error
	// Promote lets a node count that joined as a learner.
	Promote(ctx context.Context, name string) error
	// Transfer hands the leadership over: to whom, or for "" to who is furthest.
	Transfer(ctx context.Context, name string) error
	// Digest has all nodes take a digest of their state at one position.
	Digest(context.Context) (record.Position, []NodeDigest, error)
}

// NodeDigest is the state of a node in checksums.
type NodeDigest struct {
	Name     string
	Err      error // why it does not tell
	Sections []broker.Section
}

// Node is a node of a cluster.
type Node struct {
	Name, ID        string
	Peer, Client    string
	Leader, Voter   bool
	Err             error // why it does not answer: the rest is not known then
	Term            uint64
	Last, Committed uint64 // entries of the log
	Lag             uint64
	Contact         time.Duration // since it heard from the leader; -1: it never did
}

// clusterOps is gantry.v1.Cluster.
type clusterOps struct {
	gantryv1.UnsafeClusterServer // an RPC without a method must not compile

	cluster Cluster // nil: none
}

var errNoCluster = status.Error(codes.FailedPrecondition, "this broker is no node of a cluster: it was started without --node")

func (s *clusterOps) Describe(ctx context.Context, _ *gantryv1.DescribeClusterRequest) (*gantryv1.DescribeClusterResponse, error) {
	if s.cluster == nil {
		return nil, errNoCluster
	}
	resp := &gantryv1.DescribeClusterResponse{}
	for _, n := range s.cluster.Nodes(ctx) {
		wire := &gantryv1.ClusterNode{Name: n.Name, Id: n.ID, Peer: n.Peer, Client: n.Client, Leader: n.Leader, Voter: n.Voter}
		if n.Err != nil {
			wire.Error = n.Err.Error()
		} else {
			wire.Term, wire.Last, wire.Committed, wire.Lag = n.Term, n.Last, n.Committed, n.Lag
			if n.Contact >= 0 {
				wire.Contact = durationpb.New(n.Contact)
			}
		}
		resp.Nodes = append(resp.Nodes, wire)
	}
	return resp, nil
}

func (s *clusterOps) Remove(ctx context.Context, req *gantryv1.RemoveNodeRequest) (*gantryv1.RemoveNodeResponse, error) {
	if s.cluster == nil {
		return nil, errNoCluster
	}
	return &gantryv1.RemoveNodeResponse{}, clusterError(s.cluster.Remove(ctx, req.GetName()))
}

func (s *clusterOps) Transfer(ctx context.Context, req *gantryv1.TransferLeadershipRequest) (*gantryv1.TransferLeadershipResponse, error) {
	if s.cluster == nil {
		return nil, errNoCluster
	}
	return &gantryv1.TransferLeadershipResponse{}, clusterError(s.cluster.Transfer(ctx, req.GetName()))
}

func (s *clusterOps) Promote(ctx context.Context, req *gantryv1.PromoteNodeRequest) (*gantryv1.PromoteNodeResponse, error) {
	if s.cluster == nil {
		return nil, errNoCluster
	}
	return &gantryv1.PromoteNodeResponse{}, clusterError(s.cluster.Promote(ctx, req.GetName()))
}

func (s *clusterOps) Digest(ctx context.Context, _ *gantryv1.DigestClusterRequest) (*gantryv1.DigestClusterResponse, error) {
	if s.cluster == nil {
		return nil, errNoCluster
	}
	at, nodes, err := s.cluster.Digest(ctx)
	if err != nil {
		return nil, clusterError(err)
	}
	resp := &gantryv1.DigestClusterResponse{Position: uint64(at)}
	for _, n := range nodes {
		wire := &gantryv1.NodeDigest{Name: n.Name}
		if n.Err != nil {
			wire.Error = n.Err.Error()
		}
		for _, s := range n.Sections {
			wire.Sections = append(wire.Sections, &gantryv1.StateSection{Name: s.Name, Sum: s.Sum, Size: uint64(s.Size)})
		}
		resp.Nodes = append(resp.Nodes, wire)
	}
	return resp, nil
}

func clusterError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return status.FromContextError(err).Err()
	}
	return status.Error(codes.FailedPrecondition, err.Error())
}
