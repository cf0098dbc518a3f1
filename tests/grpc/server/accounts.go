package main

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// scope is that of the tokens which the metadata server gives.
const scope = "calls"

// accounts is what a cloud has for a service account: a place that gives a token for an assertion which the account's key
// has signed (RFC 7523), and a metadata server that gives one to whoever asks it. It knows by whom a call is.
type accounts struct {
	email string
	key   *rsa.PublicKey
	lock  sync.Mutex
	// The scope of each token that was given.
	given map[string]string
}

// claims are those of an assertion, and of a token that the account's key has signed by itself.
type claims struct {
	Issuer   string `json:"iss"`
	Audience string `json:"aud"`
	Scope    string `json:"scope"`
	End      int64  `json:"exp"`
}

// readAccounts takes the account from the file that its clients have, and keeps the public half of the key.
func readAccounts(file string) (*accounts, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var account struct {
		Email string `json:"client_email"`
		Key   string `json:"private_key"`
	}
	if err := json.Unmarshal(text, &account); err != nil {
		return nil, err
	}
	block, _ := pem.Decode([]byte(account.Key))
	if block == nil {
		return nil, errors.New("private_key is no PEM")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(*rsa.PrivateKey)
	if !ok {
		return nil, errors.New("private_key is not of RSA")
	}
	return &accounts{email: account.Email, key: &key.PublicKey, given: map[string]string{}}, nil
}

// verify says what the account has signed.
func (a *accounts) verify(token string) (claims, error) {
	var said claims
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return said, errors.New("no JWT")
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		return said, err
	}
	hash := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if err := rsa.VerifyPKCS1v15(a.key, crypto.SHA256, hash[:], signature); err != nil {
		return said, err
	}
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return said, err
	}
	if err := json.Unmarshal(body, &said); err != nil {
		return said, err
	}
	if said.Issuer != a.email || said.Audience == "" || time.Now().Unix() >= said.End {
		return said, fmt.Errorf("not by %s, for nobody, or over: %+v", a.email, said)
	}
	return said, nil
}

func (a *accounts) give(w http.ResponseWriter, scope string) {
	token := rand.Text()
	a.lock.Lock()
	a.given[token] = scope
	a.lock.Unlock()
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"access_token": %q, "token_type": "Bearer", "expires_in": 3600}`, token)
}

// exchange answers POST /token.
func (a *accounts) exchange(w http.ResponseWriter, r *http.Request) {
	if r.PostFormValue("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer" {
		http.Error(w, `{"error": "unsupported_grant_type"}`, http.StatusBadRequest)
		return
	}
	said, err := a.verify(r.PostFormValue("assertion"))
	if err != nil {
		fmt.Printf("an assertion is refused: %v\n", err)
		http.Error(w, `{"error": "invalid_grant"}`, http.StatusBadRequest)
		return
	}
	a.give(w, said.Scope)
}

// ask answers for the metadata server.
func (a *accounts) ask(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Metadata-Flavor") != "Google" {
		http.Error(w, "no Metadata-Flavor", http.StatusForbidden)
		return
	}
	w.Header().Set("Metadata-Flavor", "Google")
	a.give(w, scope)
}

// over serves what belongs to accounts, and leaves everything else to another handler.
func (a *accounts) over(other http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", other)
	mux.HandleFunc("POST /token", a.exchange)
	mux.HandleFunc("GET /computeMetadata/v1/instance/service-accounts/default/token", a.ask)
	return mux
}

// caller says whose credentials a call has, and for what they are.
func (a *accounts) caller(ctx context.Context) (string, string, error) {
	incoming, _ := metadata.FromIncomingContext(ctx)
	shown := incoming.Get("authorization")
	if len(shown) != 1 {
		return "", "", status.Errorf(codes.Unauthenticated, "%d credentials", len(shown))
	}
	token, found := strings.CutPrefix(shown[0], "Bearer ")
	if !found {
		return "", "", status.Error(codes.Unauthenticated, "no token")
	}
	a.lock.Lock()
	scope, given := a.given[token]
	a.lock.Unlock()
	if given {
		return a.email, scope, nil
	}
	said, err := a.verify(token)
	if err != nil {
		return "", "", status.Errorf(codes.Unauthenticated, "nobody has given this token: %v", err)
	}
	return said.Issuer, said.Scope, nil
}
