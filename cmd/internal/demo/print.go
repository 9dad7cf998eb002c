package demo

import (
	"fmt"
	"io"
	"strings"
	"time"

	"innertun/integration/lab"
)

// Nothing printed here is wider than 100 columns or needs colours.

func printWorld(w io.Writer, rtt time.Duration, size int) {
	fmt.Fprintf(w, `innertun demo: a client, two servers and the path between them, all inside this process.

  client ------ path, %.0f ms there and back ----+---- %s  %s  answers TCP-ENO
  %s         |                       |
                  eavesdropper                +---- %s  %s  ordinary TCP

The same client code sends a file of %s to each, over HTTP. It asks for encryption,
and takes plain TCP from whoever does not know it. Then it sends it to the first three times
more: with keys from the session that both have kept; with Inner Space, by which the SYNs exchange
the keys; and with early data, by which the SYN carries what the application says first.
`, ms(rtt), upgradedName, upgradedAddr, clientAddr, pad(legacyName, len(upgradedName)), legacyAddr, octets(size))
}

func printTransfer(w io.Writer, t Transfer, rtt time.Duration) {
	title := t.title()
	fmt.Fprintf(w, "\n%s\n%s\n\n", title, strings.Repeat("-", len(title)))
	fmt.Fprintln(w, "  How it opened, seen from the path (time in round trips since the SYN):")
	for _, s := range t.opening {
		arrow := "-->"
		if s.to == lab.A {
			arrow = "<--"
		}
		fmt.Fprintf(w, "    %4.2f  %s  %s\n", float64(s.at)/float64(rtt), arrow, s.what)
	}
	fmt.Fprintf(w, "    %4.2f       the client has the first octet of the reply\n\n", t.RoundTrips)

	fmt.Fprintf(w, "  %s   %s\n", pad("What the application sent", hexWidth), "What the eavesdropper saw there")
	for i := 0; i < hexLines*hexOctets && i < max(len(t.sent), len(t.seen)); i += hexOctets {
		fmt.Fprintf(w, "  %s   %s\n", pad(hexLine(t.sent, i), hexWidth), hexLine(t.seen, i))
	}
}

func (t Transfer) title() string {
	switch {
	case t.earlyData:
		return t.host + ", early data"
	case t.innerSpace:
		return t.host + ", Inner Space"
	case t.resumed:
		return t.host + ", resumed"
	}
	return t.host
}

const (
	hexOctets = 10
	hexLines  = 5
	hexWidth  = 4*hexOctets + 3
)

// hexLine shows ten octets as hex and as text.
func hexLine(b []byte, from int) string {
	if from >= len(b) {
		return ""
	}
	b = b[from:min(from+hexOctets, len(b))]
	text := make([]byte, len(b))
	for i, c := range b {
		if text[i] = '.'; printable(c) {
			text[i] = c
		}
	}
	return fmt.Sprintf("%s |%s|", pad(fmt.Sprintf("% x", b), 3*hexOctets-1), text)
}

func printTable(w io.Writer, r Report) {
	rows := [][]string{{"", "encrypted", "keys by", "cipher", "reply", "file intact", "overheard"}}
	for _, t := range r.Transfers {
		rows = append(rows, []string{t.title(), yes(t.Encrypted), dash(t.TEP), dash(t.Cipher),
			fmt.Sprintf("%.2f RTT", t.RoundTrips), yes(t.SHA256OK), yes(t.PlaintextOnWire)})
	}
	width := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			width[i] = max(width[i], len(cell))
		}
	}
	fmt.Fprintln(w)
	for i, row := range rows {
		for j := range row {
			row[j] = pad(row[j], width[j])
		}
		fmt.Fprintln(w, strings.TrimRight("  "+strings.Join(row, "  "), " "))
		if i == 0 {
			total := 2 * (len(width) - 1)
			for _, n := range width {
				total += n
			}
			fmt.Fprintln(w, "  "+strings.Repeat("-", total))
		}
	}
	fmt.Fprintln(w)
	for _, t := range r.Transfers {
		if t.SessionID != "" {
			fmt.Fprintf(w, "  Session ID of %s, the same at both ends:\n    %s\n\n", t.title(), t.SessionID)
		}
	}
	if r.OK {
		fmt.Fprintln(w, "All checks held.")
		return
	}
	fmt.Fprintln(w, "What did not hold:")
	for _, f := range r.failures {
		fmt.Fprintln(w, "  "+f)
	}
}

func printInvitation(w io.Writer, listen string) {
	fmt.Fprintf(w, `
The servers stay up. From another terminal:

    curl --socks5-hostname %s http://%s/
    curl --socks5-hostname %s http://%s/

Ctrl-C ends it.
`, listen, upgradedName, listen, legacyName)
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func pad(s string, n int) string {
	if len(s) >= n {
		return s
	}
	return s + strings.Repeat(" ", n-len(s))
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func octets(n int) string {
	switch {
	case n >= 1<<20 && n%(1<<20) == 0:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 1<<10 && n%(1<<10) == 0:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d octets", n)
}
