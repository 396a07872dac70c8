#!/bin/sh
# Makes a CA, and a certificate of it for each host of the fleet's demo, in the folder $1, if there is none.
# A real fleet has one private key on each machine, and that of the CA on none of them.
set -eu
cd "$1"
if [ -f right.pem ]; then exit 0; fi
new="openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
$new -x509 -days 30 -subj /CN=fleet-demo -addext basicConstraints=critical,CA:TRUE -keyout ca.key -out ca.pem
for name in left middle right; do
    $new -subj "/CN=$name" -keyout "$name.key" -out "$name.csr"
    printf 'subjectAltName=DNS:%s\nbasicConstraints=CA:FALSE\n' "$name" >"$name.ext"
    openssl x509 -req -in "$name.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile "$name.ext" -out "$name.new"
    mv "$name.new" "$name.pem"
done
rm -f ca.key ./*.csr ./*.ext
