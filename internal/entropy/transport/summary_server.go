package transport

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/entropy/reconcile"
	"concord/internal/entropy/reconcile/riblt"
	"concord/internal/rpc"
)

// maxSummaries is how many others may hold open at a time: each is a temporary
// file, and the symbols that were asked for.
const maxSummaries = 32

// Summarize holds a summary of a copy and answers questions about it.
func (s *Server) Summarize(stream grpc.BidiStreamingServer[rpc.SummaryQuestion, rpc.SummaryAnswer]) error {
	select {
	case s.summaries <- struct{}{}:
		defer func() { <-s.summaries }()
	default:
		return status.Errorf(codes.ResourceExhausted, "%d summaries are open: try again later", maxSummaries)
	}
	questions := receiveQuestions(stream)
	first, err := nextQuestion(stream.Context(), questions)
	if err != nil {
		return err
	}
	if first.GetOpen() == nil {
		return invalid(errors.New("the first question must open the summary"))
	}
	sum, err := s.open(stream.Context(), first.GetOpen())
	if err != nil {
		return err
	}
	defer sum.Close()
	if err := stream.Send(&rpc.SummaryAnswer{Elements: uint64(sum.Elements())}); err != nil {
		return err
	}
	for {
		q, err := nextQuestion(stream.Context(), questions)
		if err != nil || q == nil {
			return err
		}
		switch {
		case q.GetSymbols() != nil:
			err = sendSymbols(stream, sum, q.GetSymbols())
		case q.GetNames() != nil:
			err = sendNames(stream, sum, q.GetNames().Hashes)
		default:
			err = invalid(errors.New("a question must ask for symbols or names"))
		}
		if err != nil {
			return err
		}
	}
}

func (s *Server) open(ctx context.Context, q *rpc.SummaryQuestion_Open) (reconcile.Summary, error) {
	sh, err := rootShard(&rpc.RootRequest{ShardId: q.ShardId, Start: q.Start, End: q.End})
	if err != nil {
		return nil, err
	}
	rep, err := s.copies()
	if err != nil {
		return nil, err
	}
	sum, err := rep.Summarize(ctx, sh, q.Until, q.Key)
	if errors.Is(err, reconcile.ErrTooLarge) {
		return nil, status.Error(codes.OutOfRange, err.Error())
	}
	return sum, failure(err)
}

func sendSymbols(
	stream grpc.BidiStreamingServer[rpc.SummaryQuestion, rpc.SummaryAnswer], sum reconcile.Summary,
	q *rpc.SummaryQuestion_Range,
) error {
	if q.From > q.To || q.To > reconcile.MaxSymbols {
		return invalid(fmt.Errorf("symbols [%d, %d) are out of bounds", q.From, q.To))
	}
	symbols, err := sum.Symbols(stream.Context(), int(q.From), int(q.To))
	if err != nil {
		return failure(err)
	}
	return stream.Send(&rpc.SummaryAnswer{Symbols: riblt.AppendSymbols(nil, symbols)})
}

func sendNames(
	stream grpc.BidiStreamingServer[rpc.SummaryQuestion, rpc.SummaryAnswer], sum reconcile.Summary, hashes []uint64,
) error {
	if len(hashes) > reconcile.MaxHashes {
		return invalid(fmt.Errorf("names of %d series are too many at once", len(hashes)))
	}
	out := chunker[*rpc.SummaryAnswer_Name]{send: func(n []*rpc.SummaryAnswer_Name) error {
		return stream.Send(&rpc.SummaryAnswer{Names: n, More: true})
	}}
	err := sum.Names(stream.Context(), hashes, func(series []byte, field string) error {
		return out.add(&rpc.SummaryAnswer_Name{Series: append([]byte(nil), series...), Field: []byte(field)})
	})
	if err != nil {
		return failure(err)
	}
	return stream.Send(&rpc.SummaryAnswer{Names: out.items})
}

// question is what came, or the error at which no more comes.
type question struct {
	*rpc.SummaryQuestion
	err error
}

// receiveQuestions reads ahead by one question, until the stream ends.
func receiveQuestions(stream grpc.BidiStreamingServer[rpc.SummaryQuestion, rpc.SummaryAnswer]) <-chan question {
	ch := make(chan question)
	go func() {
		defer close(ch)
		for {
			q, err := stream.Recv()
			select {
			case ch <- question{q, err}:
			case <-stream.Context().Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return ch
}

// nextQuestion waits for a question; nil without an error says that the client has ended.
func nextQuestion(ctx context.Context, questions <-chan question) (*rpc.SummaryQuestion, error) {
	idle := time.NewTimer(summaryTimeout)
	defer idle.Stop()
	select {
	case q, ok := <-questions:
		if !ok || q.err != nil {
			return nil, nil // io.EOF, or the link is cut: there is nobody to tell
		}
		return q.SummaryQuestion, nil
	case <-ctx.Done():
		return nil, nil
	case <-idle.C:
		return nil, status.Errorf(codes.DeadlineExceeded, "nothing was asked about the summary for %s", summaryTimeout)
	}
}
