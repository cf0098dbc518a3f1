package main

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// failing answers /fail/HOW/COUNT/KEY: the first COUNT requests of a path fail, each later one is answered with how
// many there were. HOW is a status, or `vanish` (the stream breaks off unanswered), `hang` (there is no answer) or
// `stop` (the answer breaks off to hang after its first words).
type failing struct {
	lock  sync.Mutex
	seen  map[string]int
	other http.Handler
}

func (f *failing) count(path string) int {
	f.lock.Lock()
	defer f.lock.Unlock()
	f.seen[path]++
	return f.seen[path]
}

func (f *failing) ServeHTTP(w http.ResponseWriter, r *http.Request) {
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
	// One line for each request: what came here is counted by these.
	fmt.Printf("FAIL %s %d %s\n", r.URL.Path, seen, r.Method)
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
