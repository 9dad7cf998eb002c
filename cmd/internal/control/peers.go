package control

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"innertun/tcpinc/identity"
)

// Peer is what GET /peers answers, one object a line, every key always there: a peer of the configuration, one that is
// known since its first use, or an identity that was refused.
type Peer struct {
	Kind        string   `json:"kind"`        // "configured", "known" or "refused"
	Destination string   `json:"destination"` // "ip:port" or "name:port"; "" if configured
	Name        string   `json:"name"`        // of the [[peer]] with that key
	Key         string   `json:"key"`         // "" if configured without
	Auth        string   `json:"auth"`        // if configured
	To          []string `json:"to"`          // if configured
	Added       string   `json:"added"`       // when it became known, RFC 3339
	RefusedAgo  float64  `json:"refused_ago_ms"`
}

// KnownPeer is an entry of the file of known peers.
func KnownPeer(e identity.Entry, name string) Peer {
	p := Peer{Kind: "known", Destination: e.Destination, Name: name, Key: e.Key.String(), To: []string{}}
	if !e.Added.IsZero() {
		p.Added = e.Added.UTC().Format(time.RFC3339)
	}
	return p
}

// SortPeers puts refused ones first, then known and configured ones.
func SortPeers(all []Peer) {
	order := []string{"refused", "known", "configured"}
	slices.SortStableFunc(all, func(a, b Peer) int {
		return cmp.Or(cmp.Compare(slices.Index(order, a.Kind), slices.Index(order, b.Kind)), cmp.Compare(a.Destination, b.Destination))
	})
}

// AcceptedPeer is what POST /peers/accept answers.
type AcceptedPeer struct {
	Destination string `json:"destination"`
	Key         string `json:"key"`
	Before      string `json:"before"` // the key it was known by; "": it was not
}

// ForgottenPeer is what POST /peers/forget answers.
type ForgottenPeer struct {
	Destination string `json:"destination"`
	Known       bool   `json:"known"`
}

// peerRoutes adds what is asked about peers.
func peerRoutes(mux *http.ServeMux, src Source) {
	mux.HandleFunc("GET /peers", func(w http.ResponseWriter, _ *http.Request) {
		all, err := src.Peers()
		if err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
			return
		}
		writeLines(w, all)
	})
	mux.HandleFunc("POST /peers/accept", func(w http.ResponseWriter, r *http.Request) {
		to, err := identity.ParseDestination(r.URL.Query().Get("destination"))
		var key *identity.PublicKey
		if s := r.URL.Query().Get("key"); err == nil && s != "" {
			key = new(identity.PublicKey)
			*key, err = identity.ParsePublicKey(s)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		a, err := src.AcceptPeer(to, key)
		if err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
			return
		}
		writeJSON(w, a)
	})
	mux.HandleFunc("POST /peers/forget", func(w http.ResponseWriter, r *http.Request) {
		to, err := identity.ParseDestination(r.URL.Query().Get("destination"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		known, err := src.ForgetPeer(to)
		if err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
			return
		}
		writeJSON(w, ForgottenPeer{to, known})
	})
}

// Peers asks for GET /peers.
func (c *Client) Peers(ctx context.Context) ([]Peer, error) { return lines[Peer](ctx, c, "/peers") }

// AcceptPeer asks for POST /peers/accept; key may be nil.
func (c *Client) AcceptPeer(ctx context.Context, destination string, key *identity.PublicKey) (a AcceptedPeer, err error) {
	q := url.Values{"destination": {destination}}
	if key != nil {
		q.Set("key", key.String())
	}
	err = c.ask(ctx, http.MethodPost, "/peers/accept?"+q.Encode(), func(r io.Reader) error { return json.NewDecoder(r).Decode(&a) })
	return a, err
}

// ForgetPeer asks for POST /peers/forget.
func (c *Client) ForgetPeer(ctx context.Context, destination string) (f ForgottenPeer, err error) {
	q := url.Values{"destination": {destination}}
	err = c.ask(ctx, http.MethodPost, "/peers/forget?"+q.Encode(), func(r io.Reader) error { return json.NewDecoder(r).Decode(&f) })
	return f, err
}

// PrintPeers writes a table for people, one line an entry.
func PrintPeers(w io.Writer, all []Peer) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(w, "no peers")
		return err
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "DESTINATION\tWHAT\tNAME\tKEY")
	for _, p := range all {
		to, what := p.Destination, p.Kind
		switch p.Kind {
		case "configured":
			to, what = cmp.Or(strings.Join(p.To, ","), "-"), p.Auth
		case "known":
			if day, _, ok := strings.Cut(p.Added, "T"); ok {
				what = "known since " + day
			}
		case "refused":
			what = fmt.Sprintf("REFUSED %v ago", span(p.RefusedAgo))
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", to, what, cmp.Or(p.Name, "-"), cmp.Or(p.Key, "-"))
	}
	return tw.Flush()
}
