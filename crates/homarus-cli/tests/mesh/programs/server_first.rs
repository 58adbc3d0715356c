//! Whose server speaks first, at ports that nothing says it of: neither an annotation nor the default list of opaque ports.

use super::{Meshed, Program};
use std::time::Duration;

/// Detection by time-out would take ten times as long.
const FIRST_BYTE: Duration = Duration::from_secs(1);

/// Tells how long each of some connections took to its first byte.
const MEASURE: &str = r#"
import socket, sys, time
address = (socket.gethostbyname(sys.argv[1]), int(sys.argv[2]))
for _ in range(15):
    begun = time.perf_counter()
    with socket.create_connection(address, 30) as connection:
        connection.recv(1)
        print("%.3f" % ((time.perf_counter() - begun) * 1e3))
"#;

impl Program {
    /// How long a server's first byte takes with the mesh and without, one after the other. The first of each way is that
    /// of a proxy which knows nothing yet of the port.
    fn first_bytes(&self, port: u16) {
        let script = format!("/usr/bin/python3 - $SERVER {port} <<'PYTHON'\n{MEASURE}\nPYTHON");
        let ways = [Meshed::Neither, Meshed::Both, Meshed::Client, Meshed::Server].map(|way| {
            let name = format!("first-byte-{}", way.pod());
            self.begin(&name, way, &script);
            let mut times: Vec<f64> = self.end(&name).lines().map(|line| line.parse().unwrap()).collect();
            assert_eq!(times.len(), 15, "{name}");
            let first = times[0];
            times.sort_by(f64::total_cmp);
            assert!(times[14] < FIRST_BYTE.as_secs_f64() * 1e3, "{name} of {}: {times:?}", self.namespace);
            format!("{way:?} {:.2} (the first {first:.2})", times[7])
        });
        println!("{}: ms to the first byte, medians, by who is meshed: {}", self.namespace, ways.join(", "));
    }
}

#[test]
fn mariadb_is_heard_at_once() {
    let server = r#"
mariadb-install-db --no-defaults --user=root --datadir=/tmp/db --auth-root-authentication-method=normal --skip-test-db
cat > /tmp/init.sql <<SQL
CREATE USER 'mesh'@'%' IDENTIFIED BY 'secret';
GRANT ALL ON *.* TO 'mesh'@'%';
SQL
exec mariadbd --no-defaults --user=root --datadir=/tmp/db --init-file=/tmp/init.sql --port=3307 --bind-address=0.0.0.0 \
  --socket=/tmp/mariadb.sock --skip-name-resolve --max-connect-errors=1000000 --innodb-flush-log-at-trx-commit=0
"#;
    let program = Program::start("mariadb", &[3307], server);
    let client = r#"
mariadb --no-defaults -h $SERVER -P 3307 -u mesh -psecret -N -e "
  CREATE DATABASE of_$HOSTNAME;
  CREATE TABLE of_$HOSTNAME.t (number INT, text LONGTEXT);
  INSERT INTO of_$HOSTNAME.t VALUES (1, REPEAT('x', 1000000));
  SELECT number, LENGTH(text) FROM of_$HOSTNAME.t"
mariadb --no-defaults -h $SERVER -P 3307 -u mesh -psecret -N -e "SELECT text FROM of_$HOSTNAME.t" | wc -c
"#;
    for (way, said) in program.every_way(client) {
        assert_eq!(said.lines().collect::<Vec<_>>(), ["1\t1000000", "1000001"], "{way}");
    }
    program.first_bytes(3307);
}

#[test]
fn a_mail_is_sent_at_once() {
    let program = Program::start("smtp", &[2525], "exec /usr/bin/python3 -u -m aiosmtpd -n -l 0.0.0.0:2525");
    let client = r#"
printf 'Subject: from %s\r\n\r\nhello\r\n' $HOSTNAME > /tmp/mail
curl -sS -v -m 20 smtp://$SERVER:2525 --mail-from me@example.org --mail-rcpt you@example.org -T /tmp/mail 2>&1 | grep '^[<>]'
"#;
    for (way, said) in program.every_way(client) {
        assert!(said.starts_with("< 220 ") && said.contains("> DATA"), "{way}: {said}");
    }
    for (server, ways) in [("meshed", &["both", "server"][..]), ("plain", &["client"])] {
        let arrived = program.server_said(server, "server");
        for way in ways {
            assert!(arrived.contains(&format!("Subject: from {way}")), "{way} > {server}: {arrived}");
        }
    }
    program.first_bytes(2525);
}

#[test]
fn ssh_runs_a_command_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    let made = std::process::Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status().unwrap();
    assert!(made.success());
    let (private, public) = (std::fs::read_to_string(&key).unwrap(), std::fs::read_to_string(key.with_extension("pub")).unwrap());
    let server = format!(
        r#"
mkdir -p /run/sshd
ssh-keygen -q -t ed25519 -N '' -f /tmp/host
echo '{}' > /tmp/authorized
exec /usr/sbin/sshd -D -e -p 2222 -f /dev/null -h /tmp/host -o UsePAM=no -o UseDNS=no -o PermitRootLogin=yes -o PidFile=none \
  -o StrictModes=no -o AuthorizedKeysFile=/tmp/authorized -o MaxStartups=100
"#,
        public.trim()
    );
    let program = Program::start("ssh", &[2222], &server);
    let client = format!(
        r#"
umask 077
cat > /tmp/key <<KEY
{private}KEY
ssh="ssh -p 2222 -i /tmp/key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR root@$SERVER"
$ssh 'echo hello from $USER'
head -c 1000000 /dev/zero | $ssh wc -c
$ssh head -c 1000000 /dev/zero | wc -c
"#
    );
    for (way, said) in program.every_way(&client) {
        assert_eq!(said.lines().collect::<Vec<_>>(), ["hello from root", "1000000", "1000000"], "{way}");
    }
    program.first_bytes(2222);
}
