package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// failing answers /fail/HOW/COUNT/KEY: the first COUNT requests of a path fail, each later one is answered with how
// many there were. HOW is a status, or `vanish` (the stream breaks off unanswered), `hang` (there is no answer),
// `stop` (the answer breaks off to hang after its first words) or `early` (503 after the first five bytes of the body).
// A gRPC call whose metadata have `x-fail: COUNT/KEY` fails as often by 503, and is served then.
type failing struct {
	lock  sync.Mutex
	seen  map[string]int
	calls http.Handler
	other http.Handler
}

func (f *failing) count(path string) int {
	f.lock.Lock()
	defer f.lock.Unlock()
	f.seen[path]++
	return f.seen[path]
}

// tell logs one line for each request: what came here is counted by these, with what the body was.
func tell(path string, seen int, r *http.Request, body []byte) {
	fmt.Printf("FAIL %s %d %s %d %x %s\n", path, seen, r.Method, len(body), sha256.Sum256(body), r.Trailer.Get("X-Said"))
}

func (f *failing) call(w http.ResponseWriter, r *http.Request) {
	limit, key, found := strings.Cut(r.Header.Get("X-Fail"), "/")
	count, err := strconv.Atoi(limit)
	seen := f.count(key)
	if !found || err != nil || seen > count {
		fmt.Printf("CALL %s %d\n", key, seen)
		f.calls.ServeHTTP(w, r)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	tell(key, seen, r, body)
	w.WriteHeader(http.StatusServiceUnavailable)
}

func (f *failing) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
		f.call(w, r)
		return
	}
	parts := strings.Split(r.URL.Path, "/")
	if len(parts) != 5 || parts[1] != "fail" {
		f.other.ServeHTTP(w, r)
		return
	}
	how := parts[2]
	limit, err := strconv.Atoi(parts[3])
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	seen := f.count(r.URL.Path)
	if how == "early" && seen <= limit {
		// Otherwise HTTP/1.1 would hear the client out. HTTP/2 never does, and says that this is not for it.
		_ = http.NewResponseController(w).EnableFullDuplex()
		first := make([]byte, 5)
		count, _ := io.ReadFull(r.Body, first)
		tell(r.URL.Path, seen, r, first[:count])
		http.Error(w, "failing as told", http.StatusServiceUnavailable)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		fmt.Printf("BROKEN %s %d: %v\n", r.URL.Path, seen, err)
		panic(http.ErrAbortHandler)
	}
	tell(r.URL.Path, seen, r, body)
	if seen > limit {
		fmt.Fprintf(w, "request %d\n", seen)
		return
	}
	switch how {
	case "vanish":
		panic(http.ErrAbortHandler)
	case "hang":
		<-r.Context().Done()
	case "stop":
		fmt.Fprintln(w, "the first words")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	default:
		status, err := strconv.Atoi(how)
		if err != nil {
			status = http.StatusBadRequest
		}
		http.Error(w, "failing as told", status)
	}
}
