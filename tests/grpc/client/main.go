// A client that knows nothing of the mesh. It calls gRPC's own test service, or speaks HTTP/2 with trailers, and
// prints one line for each thing that it saw.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "google.golang.org/grpc/interop/grpc_testing"
)

type caller struct {
	service pb.TestServiceClient
	count   int
	size    int
}

func (c *caller) unary(ctx context.Context) error {
	for range c.count {
		var header, trailer metadata.MD
		request := &pb.SimpleRequest{ResponseSize: int32(c.size), Payload: &pb.Payload{Body: make([]byte, c.size)}}
		answer, err := c.service.UnaryCall(ctx, request, grpc.Header(&header), grpc.Trailer(&trailer))
		if err != nil {
			report(err)
			fmt.Printf("reason=%s\n", strings.Join(append(header.Get("gammarus-reason"), trailer.Get("gammarus-reason")...), ","))
			continue
		}
		fmt.Printf("%s heard=%s last=%s size=%d\n", answer.GetServerId(), strings.Join(header.Get("x-heard"), ","),
			strings.Join(trailer.Get("x-last"), ","), len(answer.GetPayload().GetBody()))
	}
	return nil
}

// status asks the server itself to fail.
func (c *caller) status(ctx context.Context) error {
	request := &pb.SimpleRequest{ResponseStatus: &pb.EchoStatus{Code: 9, Message: "as it was asked"}}
	_, err := c.service.UnaryCall(ctx, request)
	return err
}

func (c *caller) deadline(ctx context.Context) error {
	_, err := c.service.EmptyCall(ctx, &pb.Empty{})
	return err
}

// crowd holds calls open that never end by themselves, and makes one more.
func (c *caller) crowd(ctx context.Context) error {
	held, release := context.WithCancel(ctx)
	defer release()
	for range c.count {
		go c.service.EmptyCall(held, &pb.Empty{})
	}
	time.Sleep(time.Second)
	return (&caller{service: c.service, count: 1}).unary(ctx)
}

// download says when each message came, as a share of the whole time.
func (c *caller) download(ctx context.Context) error {
	request := &pb.StreamingOutputCallRequest{}
	for range c.count {
		request.ResponseParameters = append(request.ResponseParameters,
			&pb.ResponseParameters{Size: int32(c.size), IntervalUs: 100_000})
	}
	stream, err := c.service.StreamingOutputCall(ctx, request)
	if err != nil {
		return err
	}
	begun := time.Now()
	for {
		message, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		fmt.Printf("message size=%d after_ms=%d\n", len(message.GetPayload().GetBody()), time.Since(begun).Milliseconds())
	}
}

func (c *caller) upload(ctx context.Context) error {
	stream, err := c.service.StreamingInputCall(ctx)
	if err != nil {
		return err
	}
	for range c.count {
		request := &pb.StreamingInputCallRequest{Payload: &pb.Payload{Body: make([]byte, c.size)}}
		// An EOF says that the call is over already: its status is to be received.
		if err := stream.Send(request); err == io.EOF {
			break
		} else if err != nil {
			return err
		}
	}
	answer, err := stream.CloseAndRecv()
	if err != nil {
		return err
	}
	fmt.Printf("size=%d\n", answer.GetAggregatedPayloadSize())
	return nil
}

// duplex waits for the answer to each message before it sends the next.
func (c *caller) duplex(ctx context.Context) error {
	stream, err := c.service.FullDuplexCall(ctx)
	if err != nil {
		return err
	}
	for number := range c.count {
		body := []byte(fmt.Sprintf("message %d", number))
		request := &pb.StreamingOutputCallRequest{Payload: &pb.Payload{Body: body}}
		// An EOF says that the call is over already: its status is to be received.
		if err := stream.Send(request); err != nil && err != io.EOF {
			return err
		}
		answer, err := stream.Recv()
		if err != nil {
			return err
		}
		fmt.Printf("%s\n", answer.GetPayload().GetBody())
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	if _, err := stream.Recv(); err != io.EOF {
		return fmt.Errorf("no end of the stream: %v", err)
	}
	return nil
}

// both sends all messages while it receives their answers.
func (c *caller) both(ctx context.Context) error {
	stream, err := c.service.FullDuplexCall(ctx)
	if err != nil {
		return err
	}
	sending := make(chan error, 1)
	go func() {
		message := &pb.StreamingOutputCallRequest{Payload: &pb.Payload{Body: make([]byte, c.size)}}
		for range c.count {
			// As above: whoever receives has the status.
			if err := stream.Send(message); err == io.EOF {
				break
			} else if err != nil {
				sending <- err
				return
			}
		}
		sending <- stream.CloseSend()
	}()
	received := 0
	for {
		answer, err := stream.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if len(answer.GetPayload().GetBody()) != c.size {
			return fmt.Errorf("an answer of %d bytes", len(answer.GetPayload().GetBody()))
		}
		received++
	}
	if err := <-sending; err != nil {
		return err
	}
	fmt.Printf("sent=%d received=%d\n", c.count, received)
	return nil
}

func report(err error) {
	fmt.Printf("code=%s message=%s\n", status.Code(err), status.Convert(err).Message())
}

// speakHTTP2 posts a body of unknown length with a trailer and prints the answer with its own.
func speakHTTP2(method, url string, size int) error {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	client := &http.Client{Transport: &http.Transport{Protocols: protocols}, Timeout: 30 * time.Second}
	body := make([]byte, size)
	request, err := http.NewRequest(method, url, io.NopCloser(strings.NewReader(string(body))))
	if err != nil {
		return err
	}
	request.ContentLength = -1
	request.Trailer = http.Header{"X-Said": {"at the end"}}
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	hash := sha256.Sum256(body)
	fmt.Printf("status=%d proto=%s trailer=%q same=%t\n%s", answer.StatusCode, answer.Proto, answer.Trailer.Get("X-Last"),
		strings.Contains(string(text), hex.EncodeToString(hash[:])), text)
	return nil
}

func main() {
	target := flag.String("target", "", "host:port, or a URL for http2")
	method := flag.String("method", http.MethodPost, "of a request of http2")
	headers := flag.String("headers", "", "metadata as name=value,name=value")
	count := flag.Int("count", 1, "how many calls or messages")
	size := flag.Int("size", 0, "bytes of each message")
	timeout := flag.Duration("timeout", 20*time.Second, "deadline of the whole, or of each paced call")
	rate := flag.Int("rate", 50, "paced calls per second")
	flag.Parse()
	if flag.Arg(0) == "paced" {
		if err := new(pace).run(*target, *rate, *timeout); err != nil {
			log.Fatal(err)
		}
		return
	}
	if flag.Arg(0) == "http2" {
		if err := speakHTTP2(*method, *target, *size); err != nil {
			log.Fatal(err)
		}
		return
	}

	connection, err := grpc.NewClient("passthrough:///"+*target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), *timeout)
	defer cancel()
	for _, pair := range strings.Split(*headers, ",") {
		if name, value, found := strings.Cut(pair, "="); found {
			ctx = metadata.AppendToOutgoingContext(ctx, name, value)
		}
	}
	c := &caller{service: pb.NewTestServiceClient(connection), count: *count, size: *size}
	calls := map[string]func(context.Context) error{
		"unary": c.unary, "status": c.status, "deadline": c.deadline,
		"download": c.download, "upload": c.upload, "duplex": c.duplex, "both": c.both, "crowd": c.crowd,
	}
	call, known := calls[flag.Arg(0)]
	if !known {
		fmt.Fprintf(os.Stderr, "no call %q\n", flag.Arg(0))
		os.Exit(2)
	}
	if err := call(ctx); err != nil {
		report(err)
	}
}
