package identity

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Destination is the one form in which a destination is written: "198.18.0.2:80", "[fd00::2]:80" or, where the program
// asked for a name, "www.example.net:80".
func Destination(host string, port uint16) string {
	if a, err := netip.ParseAddr(host); err == nil {
		return netip.AddrPortFrom(a.Unmap(), port).String()
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return net.JoinHostPort(host, strconv.Itoa(int(port)))
}

// ParseDestination reads IP:PORT or NAME:PORT and returns the one form of it.
func ParseDestination(s string) (string, error) {
	wrong := fmt.Errorf("%q is no destination, expected IP:PORT ([IP]:PORT for IPv6) or NAME:PORT", s)
	host, service, err := net.SplitHostPort(s)
	if err != nil || host == "" || strings.ContainsAny(host, " \t\r\n#/") {
		return "", wrong
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil || port == 0 {
		return "", wrong
	}
	if strings.Contains(host, ":") {
		if _, err := netip.ParseAddr(host); err != nil {
			return "", wrong
		}
	}
	if strings.HasPrefix(host, ".") || strings.Contains(host, "..") { // a label of nothing
		return "", wrong
	}
	return Destination(host, uint16(port)), nil
}

// parseKnown reads the contents of a file of known peers; name is for errors.
func parseKnown(name string, text []byte) (knownFile, error) {
	f := knownFile{peers: make(map[string]Entry)}
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		if strings.HasPrefix(line, "#") {
			f.comments = append(f.comments, line)
			continue
		}
		e, err := parseEntry(line)
		if err == nil && f.peers[e.Destination].Destination != "" {
			err = fmt.Errorf("%s is there twice: remove the line that is wrong", e.Destination)
		}
		if err == nil {
			err = f.put(e)
		}
		if err != nil {
			return knownFile{}, fmt.Errorf("%s:%d: %w", name, n, err)
		}
	}
	return f, nil
}

func parseEntry(line string) (e Entry, err error) {
	fields := strings.Fields(line)
	if len(fields) < 2 || len(fields) > 3 {
		return e, fmt.Errorf("a line has %d words, expected a destination, a key and perhaps a time: correct or remove it", len(fields))
	}
	if e.Destination, err = ParseDestination(fields[0]); err != nil {
		return e, err
	}
	if e.Key, err = ParsePublicKey(fields[1]); err != nil {
		return e, err
	}
	if len(fields) == 3 {
		if e.Added, err = time.Parse(time.RFC3339, fields[2]); err != nil {
			return e, fmt.Errorf("%q is no time, expected like \"2026-01-31T12:00:00Z\"", fields[2])
		}
		if year := e.Added.UTC().Year(); year < 0 || year > 9999 { // could not be read again as we write it
			return e, fmt.Errorf("%q is no time of the years 0 to 9999 in UTC", fields[2])
		}
	}
	return e, nil
}
