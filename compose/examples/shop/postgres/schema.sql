create table orders (
    id        integer generated always as identity (start with 1001) primary key,
    customer  text        not null,
    sku       text        not null,
    quantity  integer     not null check (quantity > 0),
    note      text        not null default '',
    taken_by  text        not null,
    placed_at timestamptz not null default now()
);
