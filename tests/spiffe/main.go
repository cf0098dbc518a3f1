// A client that knows SPIFFE and nothing of the mesh: it has a trust bundle, an X.509-SVID and the protocol's
// name. It says whom it has met and what that one has answered.
package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// Kinds of frames on the hop.
const (
	data  = 0
	open  = 1
	end   = 4
	reset = 5
)

// What is said to us on the one stream.
type stream struct {
	frames io.Reader
	left   int
}

func (s *stream) Read(space []byte) (int, error) {
	for s.left == 0 {
		var head [8]byte
		if _, err := io.ReadFull(s.frames, head[:]); err != nil {
			return 0, err
		}
		switch head[4] {
		case data:
			s.left = int(head[5])<<16 | int(head[6])<<8 | int(head[7])
		case end:
			return 0, io.EOF
		case reset:
			return 0, fmt.Errorf("the stream was reset")
		}
	}
	count, err := s.frames.Read(space[:min(len(space), s.left)])
	s.left -= count
	return count, err
}

func main() {
	log.SetFlags(0)
	address := flag.String("address", "", "where to go, IP:PORT")
	bundle := flag.String("bundle", "", "the trust bundle, PEM")
	cert := flag.String("cert", "", "the own chain, PEM")
	key := flag.String("key", "", "the own key, PEM")
	expected := flag.String("expect", "", "the SPIFFE ID that the peer must have")
	alpn := flag.String("alpn", "", "the protocol to offer")
	path := flag.String("path", "/", "what to ask for")
	flag.Parse()

	peer := spiffeid.RequireFromString(*expected)
	roots, err := x509bundle.Load(peer.TrustDomain(), *bundle)
	if err != nil {
		log.Fatal(err)
	}
	own, err := x509svid.Load(*cert, *key)
	if err != nil {
		log.Fatal(err)
	}
	config := tlsconfig.MTLSClientConfig(own, roots, tlsconfig.AuthorizeID(peer))
	config.NextProtos = []string{*alpn}
	config.MinVersion = tls.VersionTLS13

	connection, err := tls.Dial("tcp", *address, config)
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	if err := connection.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		log.Fatal(err)
	}
	state := connection.ConnectionState()
	met, err := x509svid.IDFromCert(state.PeerCertificates[0])
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("peer %s\nalpn %s\n", met, state.NegotiatedProtocol)

	request, err := http.NewRequest(http.MethodGet, "http://"+*address+*path, http.NoBody)
	if err != nil {
		log.Fatal(err)
	}
	request.Close = true
	var text bytes.Buffer
	if err := request.Write(&text); err != nil {
		log.Fatal(err)
	}
	// Stream 1 is opened, and the request said on it: a frame's head is the stream, its kind and a length.
	frames := append([]byte{0, 0, 0, 1, open, 0, 0, 0}, 0, 0, 0, 1, data, 0, byte(text.Len()>>8), byte(text.Len()))
	if _, err := connection.Write(append(frames, text.Bytes()...)); err != nil {
		log.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(&stream{frames: connection}), request)
	if err != nil {
		log.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("status %d\n%s", response.StatusCode, body)
}
