// A server that knows nothing of the mesh: gRPC's own test service on one port, HTTP of both versions, in
// plain text, on another, and in TLS on a third if it has a certificate.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	pb "google.golang.org/grpc/interop/grpc_testing"
)

type service struct {
	pb.UnimplementedTestServiceServer
	name string
	// Nobody, if it asks for no credentials.
	accounts *accounts
}

// EmptyCall never answers by itself: it is there for deadlines.
func (s *service) EmptyCall(ctx context.Context, _ *pb.Empty) (*pb.Empty, error) {
	<-ctx.Done()
	fmt.Printf("%s: a call was cancelled\n", s.name)
	return nil, status.FromContextError(ctx.Err()).Err()
}

// UnaryCall says who has answered, and sends metadata back both ways.
func (s *service) UnaryCall(ctx context.Context, request *pb.SimpleRequest) (*pb.SimpleResponse, error) {
	if wanted := request.GetResponseStatus(); wanted != nil {
		return nil, status.Error(codes.Code(wanted.GetCode()), wanted.GetMessage())
	}
	answer := &pb.SimpleResponse{
		ServerId: s.name,
		Payload:  &pb.Payload{Body: make([]byte, request.GetResponseSize())},
	}
	if request.GetFillUsername() && s.accounts != nil {
		email, scope, err := s.accounts.caller(ctx)
		if err != nil {
			return nil, err
		}
		answer.Username, answer.OauthScope = email, scope
	}
	incoming, _ := metadata.FromIncomingContext(ctx)
	said := strings.Join(incoming.Get("x-said"), "|")
	if err := grpc.SendHeader(ctx, metadata.Pairs("x-heard", said)); err != nil {
		return nil, err
	}
	if err := grpc.SetTrailer(ctx, metadata.Pairs("x-last", said)); err != nil {
		return nil, err
	}
	client := "unknown"
	if from, ok := peer.FromContext(ctx); ok {
		client = from.Addr.String()
	}
	fmt.Printf("%s: a call from %s\n", s.name, client)
	return answer, nil
}

// StreamingOutputCall sends as many messages as are asked for, each of its size and after its pause.
func (s *service) StreamingOutputCall(request *pb.StreamingOutputCallRequest, stream grpc.ServerStreamingServer[pb.StreamingOutputCallResponse]) error {
	for _, wanted := range request.GetResponseParameters() {
		time.Sleep(time.Duration(wanted.GetIntervalUs()) * time.Microsecond)
		message := &pb.StreamingOutputCallResponse{Payload: &pb.Payload{Body: make([]byte, wanted.GetSize())}}
		if err := stream.Send(message); err != nil {
			return err
		}
	}
	return nil
}

// StreamingInputCall counts what it is sent.
func (s *service) StreamingInputCall(stream grpc.ClientStreamingServer[pb.StreamingInputCallRequest, pb.StreamingInputCallResponse]) error {
	var size int32
	for {
		request, err := stream.Recv()
		if err == io.EOF {
			return stream.SendAndClose(&pb.StreamingInputCallResponse{AggregatedPayloadSize: size})
		}
		if err != nil {
			return err
		}
		size += int32(len(request.GetPayload().GetBody()))
	}
}

// FullDuplexCall answers every message with one of the same body.
func (s *service) FullDuplexCall(stream grpc.BidiStreamingServer[pb.StreamingOutputCallRequest, pb.StreamingOutputCallResponse]) error {
	for {
		request, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(&pb.StreamingOutputCallResponse{Payload: request.GetPayload()}); err != nil {
			return err
		}
	}
}

// plain answers HTTP: anything under /load with who it is, the path and the length of the body; POST /hash with the length and hash of the body, GET /bytes/N with N bytes, /hints with a 103 before it, anything else
// with who it is; every answer ends with a trailer that repeats the request's.
func plain(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		hash := sha256.New()
		length, err := io.Copy(hash, r.Body)
		if err != nil {
			fmt.Printf("%s: a body broke off: %v\n", name, err)
			panic(http.ErrAbortHandler)
		}
		if strings.HasPrefix(r.URL.Path, "/load/") {
			fmt.Fprintf(w, "%s %s %d\n", name, r.URL.Path, length)
			return
		}
		if r.URL.Path == "/hints" {
			w.Header().Set("Link", "</a.css>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
		}
		w.Header().Set("Trailer", "X-Last")
		w.Header().Set("X-App", name)
		w.Header().Set("X-Heard-Cookies", r.Header.Get("Cookie"))
		if size, found := strings.CutPrefix(r.URL.Path, "/bytes/"); found {
			count, err := strconv.Atoi(size)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			piece := make([]byte, 64*1024)
			for index := range piece {
				piece[index] = byte(index * 7)
			}
			for count > 0 {
				written, err := w.Write(piece[:min(count, len(piece))])
				if err != nil {
					return
				}
				count -= written
			}
		} else {
			fmt.Fprintf(w, "%s %s %d %s\n", name, r.Proto, length, hex.EncodeToString(hash.Sum(nil)))
		}
		w.Header().Set("X-Last", r.Trailer.Get("X-Said"))
	}
}

func main() {
	name := flag.String("name", "server", "what it answers with")
	grpcPort := flag.Int("grpc", 50051, "port of gRPC")
	httpPort := flag.Int("http", 8080, "port of HTTP")
	echoPort := flag.Int("echo", 9000, "port on which bytes come back as they are")
	httpsPort := flag.Int("https", 8443, "port of HTTP in TLS, with a certificate")
	certificate := flag.String("certificate", "", "folder of tls.crt and tls.key")
	tls := flag.Bool("tls", false, "the port of gRPC is in TLS, too, with that certificate")
	account := flag.String("account", "", "file of a service account: calls that ask by whom they are need its credentials")
	flag.Parse()

	listener, err := net.Listen("tcp", fmt.Sprintf(":%d", *grpcPort))
	if err != nil {
		log.Fatal(err)
	}
	options := []grpc.ServerOption{grpc.MaxConcurrentStreams(100)}
	chain, key := *certificate+"/tls.crt", *certificate+"/tls.key"
	if *tls {
		secure, err := credentials.NewServerTLSFromFile(chain, key)
		if err != nil {
			log.Fatal(err)
		}
		options = append(options, grpc.Creds(secure))
	}
	server := grpc.NewServer(options...)
	served := &service{name: *name}
	other := http.Handler(plain(*name))
	if *account != "" {
		if served.accounts, err = readAccounts(*account); err != nil {
			log.Fatal(err)
		}
		other = served.accounts.over(other)
	}
	pb.RegisterTestServiceServer(server, served)
	go func() { log.Fatal(server.Serve(listener)) }()

	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	web := &http.Server{
		Addr: fmt.Sprintf(":%d", *httpPort), Protocols: protocols,
		Handler:           &failing{seen: map[string]int{}, calls: server, other: other},
		ReadHeaderTimeout: time.Minute,
	}
	echoes, err := net.Listen("tcp", fmt.Sprintf(":%d", *echoPort))
	if err != nil {
		log.Fatal(err)
	}
	go echo(echoes)
	fmt.Println("listening")
	go func() {
		if err := web.ListenAndServe(); err != http.ErrServerClosed {
			log.Fatal(err)
		}
	}()

	secure := &http.Server{
		Addr: fmt.Sprintf(":%d", *httpsPort), Handler: web.Handler, ReadHeaderTimeout: time.Minute,
	}
	if *certificate != "" {
		go func() {
			if err := secure.ListenAndServeTLS(chain, key); err != http.ErrServerClosed {
				log.Fatal(err)
			}
		}()
	}

	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM)
	<-told
	// Takes nothing new, and ends in order what is open; but not for longer than its caller may wait.
	time.AfterFunc(time.Second, func() { os.Exit(0) })
	web.Shutdown(context.Background())
	secure.Shutdown(context.Background())
	server.GracefulStop()
}

// echo sends back what it is sent, until the other side has ended.
func echo(listener net.Listener) {
	for {
		connection, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			defer connection.Close()
			io.Copy(connection, connection)
		}()
	}
}
