package control

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"innertun/cmd/internal/conns"
	"innertun/tcpinc"
	"innertun/tcpinc/identity"
)

// PrintStatus writes st for people, in at most 100 columns.
func PrintStatus(w io.Writer, st Status) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tw, "innertun %s, pid %d, up %v\n", st.Version, st.PID, span(st.Uptime))
	way := cmp.Or(st.Interface, "none")
	if st.Egress != "" {
		way += " (" + st.Egress + ")"
	}
	if st.Link != "" && st.Link != LinkUp {
		way += ", " + st.Link + ": no connection can be made"
	}
	fmt.Fprintf(tw, "interface\t%s\n", way)
	fmt.Fprintf(tw, "active\t%d\n", st.Active)
	fmt.Fprintf(tw, "encrypted\t%d\n", st.Totals.Encrypted)
	fmt.Fprintf(tw, "plain\t%s\n", breakdown(st.Totals.Plain))
	fmt.Fprintf(tw, "failed\t%s\n", breakdown(st.Totals.Failed))
	fmt.Fprintf(tw, "downgrades\t%d\n", st.Downgrades)
	return tw.Flush()
}

// breakdown is a sum and what it is made of, the most first.
func breakdown(by map[string]uint64) string {
	var sum uint64
	words := make([]string, 0, len(by))
	for word, n := range by {
		sum += n
		words = append(words, word)
	}
	slices.SortFunc(words, func(a, b string) int {
		return cmp.Or(cmp.Compare(by[b], by[a]), strings.Compare(a, b))
	})
	for i, word := range words {
		words[i] = fmt.Sprintf("%s %d", word, by[word])
	}
	if sum == 0 {
		return "0"
	}
	return fmt.Sprintf("%d (%s)", sum, strings.Join(words, ", "))
}

// PrintConns writes a table for people, one line a connection.
func PrintConns(w io.Writer, all []conns.Info) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(w, "no connections")
		return err
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "ID\tROLE\tREMOTE\tSTATE\tHOW\tRTT\tIN\tOUT\tAGE")
	for _, c := range all {
		fmt.Fprintf(tw, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%v\n", c.ID, c.Role, c.Remote, c.State, how(c),
			rtt(c.RTT), size(c.BytesIn), size(c.BytesOut), span(c.Age))
	}
	return tw.Flush()
}

// how tells in a few words what protects a connection, or what became of it.
func how(c conns.Info) string {
	switch {
	case c.Downgraded && c.FallbackReason != "":
		return "downgraded: " + c.FallbackReason
	case c.State == conns.Failed && strings.Contains(c.Error, tcpinc.ErrPeerIdentity.Error()):
		return "not proven to be who is meant: --json" // its text says what to do, and is long
	case c.State == conns.Failed && strings.Contains(c.Error, tcpinc.ErrEncryptionRequired.Error()):
		return "encryption required: " + c.FallbackReason
	case c.State == conns.Failed && c.Error != "":
		return cause(c.Error, 42)
	case c.Encrypted:
		text := c.Cipher + " " + c.TEP
		switch {
		case c.Downgraded: // no Inner Space any more
			text += " downgraded"
		case c.EarlyData: // resumed, too
			text += " early data"
		case c.Resumed:
			text += " resumed"
		}
		if c.Peer != "" {
			text += ", peer " + shortened(c.Peer)
		}
		return text
	case c.FallbackReason != "":
		return "plain: " + c.FallbackReason
	case c.State == conns.Opening || c.State == conns.Failed:
		return "-"
	}
	return "plain"
}

// shortened cuts a public key to what tells keys apart at a glance; names stay whole.
func shortened(peer string) string {
	if _, err := identity.ParsePublicKey(peer); err != nil {
		return peer
	}
	_, key, _ := strings.Cut(peer, ":")
	return key[:10] + "..."
}

// PrintPaths writes a table for people, one line an entry.
func PrintPaths(w io.Writer, all []Path) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(w, "nothing is remembered")
		return err
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "DESTINATION\tWHAT\tFAILURES\tRETRY IN\tNETWORK")
	for _, p := range all {
		to := cmp.Or(p.Destination, "all on this network")
		failures, retry := "-", "-"
		if p.Fault != "" {
			failures, retry = fmt.Sprint(p.Failures), "next connection"
		}
		if p.RetryIn > 0 {
			retry = span(p.RetryIn).String()
		}
		if p.InnerFor > 0 && p.Inner != "upgraded" {
			retry = span(p.InnerFor).String()
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\n", to, what(p), failures, retry, cmp.Or(p.Network, "-"))
	}
	return tw.Flush()
}

// what tells what is remembered.
func what(p Path) string {
	switch {
	case p.Fault != "":
		return "plain: " + p.Fault
	case p.Inner != "":
		return fmt.Sprintf("%s %v ago", p.Inner, span(p.InnerAgo))
	case p.Ratcheted:
		return "must encrypt"
	}
	return fmt.Sprintf("encrypted %v ago", span(p.EncryptedAgo))
}

// cause shortens an error to n characters, on one line: errors end with what happened, so it is the end that is kept,
// and the steps and addresses before it, which the table has columns for, go first.
func cause(s string, n int) string {
	parts := strings.Split(strings.Join(strings.Fields(s), " "), ": ")
	last := len(parts) - 1
	kept := slices.DeleteFunc(parts[:last:last], func(step string) bool {
		verb, _, addresses := strings.Cut(step, " tcp ")
		switch verb {
		case "dial", "read", "write", "connect":
			return addresses || verb == step
		}
		return false
	})
	r := []rune(strings.Join(append(kept, parts[last]), ": "))
	if len(r) <= n {
		return string(r)
	}
	return "..." + string(r[len(r)-n+3:])
}

func rtt(ms float64) string {
	switch {
	case ms <= 0:
		return "-"
	case ms < 10:
		return fmt.Sprintf("%.2fms", ms)
	}
	return fmt.Sprintf("%.0fms", ms)
}

// size writes octets in binary units, three digits or so.
func size(n uint64) string {
	if n < 1024 {
		return fmt.Sprintf("%dB", n)
	}
	v, unit := float64(n)/1024, 0
	for ; v >= 1000 && unit < 4; unit++ {
		v /= 1024
	}
	digits := 0
	if v < 10 {
		digits = 1
	}
	return fmt.Sprintf("%.*f%ciB", digits, v, "KMGTP"[unit])
}

// span writes milliseconds as a duration of one or two units.
func span(ms float64) time.Duration {
	d := time.Duration(ms * float64(time.Millisecond))
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond)
	case d < time.Minute:
		return d.Round(100 * time.Millisecond)
	}
	return d.Round(time.Second)
}
