package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"

	"concord/internal/cluster"
	"concord/internal/entropy/reconcile"
	"concord/internal/entropy/reconcile/riblt"
	"concord/internal/rpc"
)

// summary is another node's summary of a copy, over a stream.
type summary struct {
	peer     *peer
	stream   grpc.BidiStreamingClient[rpc.SummaryQuestion, rpc.SummaryAnswer]
	ctx      context.Context
	cancel   context.CancelCauseFunc
	elements int
}

var _ reconcile.Summary = (*summary)(nil)

// Summarize opens the summary of the node's copy, which lasts until Close or the end of ctx.
func (p *peer) Summarize(ctx context.Context, sh cluster.Shard, until int64, key uint64) (reconcile.Summary, error) {
	conn, err := p.pool.Conn(p.node.TCPAddr)
	if err != nil {
		return nil, err
	}
	s := &summary{peer: p}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	if s.stream, err = rpc.NewReconcileClient(conn).Summarize(s.ctx); err != nil {
		s.cancel(nil)
		return nil, p.fail(err)
	}
	open := &rpc.SummaryQuestion_Open{ShardId: sh.ID, Start: sh.Start, End: sh.End, Until: until, Key: key}
	a, err := s.ask(&rpc.SummaryQuestion{Question: &rpc.SummaryQuestion_Open_{Open: open}}, rootTimeout)
	if err == nil && a.Elements > reconcile.MaxElements {
		err = fmt.Errorf("node %s has %d windows in its summary", p.node.TCPAddr, a.Elements)
	}
	if err != nil {
		s.cancel(nil)
		return nil, err
	}
	s.elements = int(a.Elements)
	return s, nil
}

// ask sends a question, unless it is nil, and waits for an answer.
func (s *summary) ask(q *rpc.SummaryQuestion, timeout time.Duration) (*rpc.SummaryAnswer, error) {
	silent := fmt.Errorf("node %s sent nothing for %s", s.peer.node.TCPAddr, timeout)
	idle := time.AfterFunc(timeout, func() { s.cancel(silent) })
	defer idle.Stop()
	if q != nil {
		// An error of Send is io.EOF; Recv has the status.
		if err := s.stream.Send(q); err != nil && !errors.Is(err, io.EOF) {
			return nil, s.peer.fail(err)
		}
	}
	a, err := s.stream.Recv()
	switch {
	case err == nil:
		return a, nil
	case context.Cause(s.ctx) == silent:
		return nil, silent
	case errors.Is(err, io.EOF):
		return nil, fmt.Errorf("node %s ended its summary", s.peer.node.TCPAddr)
	case context.Cause(s.ctx) != nil && s.ctx.Err() != nil:
		return nil, context.Cause(s.ctx)
	}
	return nil, s.peer.fail(err)
}

func (s *summary) Elements() int { return s.elements }

func (s *summary) Symbols(_ context.Context, from, to int) ([]riblt.Symbol, error) {
	q := &rpc.SummaryQuestion_Range{From: uint64(from), To: uint64(to)}
	a, err := s.ask(&rpc.SummaryQuestion{Question: &rpc.SummaryQuestion_Symbols{Symbols: q}}, summaryTimeout)
	if err != nil {
		return nil, err
	}
	symbols, err := riblt.DecodeSymbols(a.Symbols, to-from)
	if err == nil && len(symbols) != to-from {
		err = fmt.Errorf("%d symbols instead of %d", len(symbols), to-from)
	}
	if err != nil {
		return nil, fmt.Errorf("node %s: %w", s.peer.node.TCPAddr, err)
	}
	return symbols, nil
}

func (s *summary) Names(_ context.Context, hashes []uint64, fn func(series []byte, field string) error) error {
	q := &rpc.SummaryQuestion{Question: &rpc.SummaryQuestion_Names{Names: &rpc.SummaryQuestion_Hashes{Hashes: hashes}}}
	for named := 0; ; {
		a, err := s.ask(q, summaryTimeout)
		if err != nil {
			return err
		}
		q = nil
		if named += len(a.Names); named > len(hashes) || a.More && len(a.Names) == 0 {
			return fmt.Errorf("node %s sent names that were not asked for", s.peer.node.TCPAddr)
		}
		for _, n := range a.Names {
			if err := checkKey(n.Series, n.Field); err != nil {
				return fmt.Errorf("node %s: %w", s.peer.node.TCPAddr, err)
			}
			if err := fn(n.Series, string(n.Field)); err != nil {
				return err
			}
		}
		if !a.More {
			return nil
		}
	}
}

func (s *summary) Close() error {
	s.cancel(nil)
	return nil
}
