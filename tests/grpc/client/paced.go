package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/stats"

	pb "google.golang.org/grpc/interop/grpc_testing"
)

// Every so many calls one is a stream of both directions.
const streamEvery = 10

// pace makes so many calls a second on one connection, whether earlier ones are answered or not, until it is told
// to end by SIGTERM. Once connected, and every second, it prints a line of JSON with what became of them so far; the last has "done".
type pace struct {
	mutex  sync.Mutex
	report paceReport
}

type paceReport struct {
	Sent int `json:"sent"`
	Ok   int `json:"ok"`
	// Of the slowest call that was answered, in milliseconds.
	Slowest int64 `json:"slowest_ms"`
	// When it began, in milliseconds since 1970.
	SlowestAt int64 `json:"slowest_at_ms"`
	// How many connections there were. The client's library makes a new one when the server has ended the first.
	Connections int `json:"connections"`
	// Calls that the library sent again by itself among them, though they may have been answered then.
	Failures []paceFailure `json:"failures"`
	Done     bool          `json:"done"`
}

type paceFailure struct {
	// When the call began, in milliseconds since 1970.
	At   int64  `json:"at_ms"`
	Took int64  `json:"took_ms"`
	Text string `json:"text"`
}

// callBegun is the key of the time at which a call was first sent, in the contexts of its attempts.
type callBegun struct{}

func (p *pace) note(change func(*paceReport)) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	change(&p.report)
}

func (p *pace) fail(begun time.Time, text string) {
	failure := paceFailure{begun.UnixMilli(), time.Since(begun).Milliseconds(), text}
	p.note(func(r *paceReport) { r.Failures = append(r.Failures, failure) })
}

func (p *pace) print(done bool) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.report.Done = done
	line, err := json.Marshal(p.report)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(line))
}

func (p *pace) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// HandleRPC notes a call that the library sends again, as having failed from when it was first sent until now.
func (p *pace) HandleRPC(ctx context.Context, event stats.RPCStats) {
	if begin, ok := event.(*stats.Begin); ok && begin.IsTransparentRetryAttempt {
		p.fail(ctx.Value(callBegun{}).(time.Time), "sent again by the library")
	}
}

func (p *pace) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

func (p *pace) HandleConn(_ context.Context, event stats.ConnStats) {
	if _, ok := event.(*stats.ConnBegin); ok {
		p.note(func(r *paceReport) { r.Connections++ })
	}
}

// call makes one call and says what is wrong with its answer.
func (p *pace) call(ctx context.Context, service pb.TestServiceClient, number int) error {
	size := number % 1000
	if number%streamEvery != 0 {
		request := &pb.SimpleRequest{ResponseSize: int32(size), Payload: &pb.Payload{Body: make([]byte, size)}}
		answer, err := service.UnaryCall(ctx, request)
		if err == nil && len(answer.GetPayload().GetBody()) != size {
			err = fmt.Errorf("an answer of %d bytes and not %d", len(answer.GetPayload().GetBody()), size)
		}
		return err
	}
	stream, err := service.FullDuplexCall(ctx)
	if err != nil {
		return err
	}
	for message := range 3 {
		body := fmt.Sprintf("message %d of call %d", message, number)
		request := &pb.StreamingOutputCallRequest{Payload: &pb.Payload{Body: []byte(body)}}
		// An EOF says that the call is over already: its status is to be received.
		if err := stream.Send(request); err != nil && err != io.EOF {
			return err
		}
		answer, err := stream.Recv()
		if err != nil {
			return err
		}
		if heard := string(answer.GetPayload().GetBody()); heard != body {
			return fmt.Errorf("%q came back as %q", body, heard)
		}
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	if _, err := stream.Recv(); err != io.EOF {
		return fmt.Errorf("no end of the stream: %v", err)
	}
	return nil
}

func (p *pace) counted(service pb.TestServiceClient, number int, timeout time.Duration) {
	begun := time.Now()
	p.note(func(r *paceReport) { r.Sent++ })
	ctx, cancel := context.WithTimeout(context.WithValue(context.Background(), callBegun{}, begun), timeout)
	defer cancel()
	if err := p.call(ctx, service, number); err != nil {
		p.fail(begun, err.Error())
		return
	}
	took := time.Since(begun).Milliseconds()
	p.note(func(r *paceReport) {
		r.Ok++
		if took > r.Slowest {
			r.Slowest, r.SlowestAt = took, begun.UnixMilli()
		}
	})
}

func (p *pace) run(target string, perSecond int, timeout time.Duration) error {
	connection, err := grpc.NewClient("passthrough:///"+target,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry(), grpc.WithStatsHandler(p))
	if err != nil {
		return err
	}
	defer connection.Close()
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM)
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	connection.Connect()
	for state := connection.GetState(); state != connectivity.Ready; state = connection.GetState() {
		if !connection.WaitForStateChange(ctx, state) {
			return fmt.Errorf("%s: no connection within %v", target, timeout)
		}
	}
	// Whoever has started this program sees that the calls begin.
	p.print(false)
	service := pb.NewTestServiceClient(connection)
	var open sync.WaitGroup
	calls := time.NewTicker(time.Second / time.Duration(perSecond))
	prints := time.NewTicker(time.Second)
	for number := 0; ; {
		select {
		case <-calls.C:
			number++
			open.Add(1)
			go func() {
				defer open.Done()
				p.counted(service, number, timeout)
			}()
		case <-prints.C:
			p.print(false)
		case <-told:
			open.Wait()
			p.print(true)
			return nil
		}
	}
}
